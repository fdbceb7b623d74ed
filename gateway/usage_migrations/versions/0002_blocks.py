"""Money is leased in blocks and drawn in batches, so that a paid call asks nothing of Postgres.

A block is a reservation that several spends share. A process leases one, spends from it in
memory, and a moment later tells in one batch what was spent and what goes back.

    open ──draw──> open, and smaller ──draw, done──> settled
      └──sweep───> released ──draw──> the cost still counts

A reservation's amount is now what is left of it: at all times the open ones of a project are,
together, what its month says is reserved.

`reserve`, `settle` and `record` stay for processes of the release before. `reserve` is a lease
of exactly one amount, so both compare in one place. `sweep` and `purge` take their locks in an
order now: a draw has many reservations and months of several projects, where a settlement had
one of each. The order is batch, reservation, month, day, and within each by its key.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BATCHES = (
    # Batches that were booked, so that one whose reply was lost is not booked again. Some 100
    # bytes each, at most two a second from each process that spends.
    """
    CREATE TABLE usage.batch (
        id uuid PRIMARY KEY,
        at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "CREATE INDEX batch_age ON usage.batch (at)",
    "ALTER TABLE usage.batch ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE usage.batch FORCE ROW LEVEL SECURITY",
    "CREATE POLICY functions ON usage.batch TO citemesh_usage_owner USING (true)",
)

# Reserves a hundredth of what is left of the budget, but at most p_most and at least p_least:
# however many processes hold a block, most of the money is free for whoever asks next, and
# near its end a block is what one call may cost. A p_least of 0 asks whether the project may
# spend anything at all.
# The row of the month is locked before anything is compared, so leases of one project come one
# after the other and never exceed the budget together.
LEASE = """
    CREATE FUNCTION usage.lease(p_project text, p_least bigint, p_most bigint, p_ttl interval)
    RETURNS TABLE (id uuid, amount bigint)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = usage, pg_temp
    AS $$
    DECLARE
        this month.month%TYPE := this_month();
        taken bigint;
        allowed bigint;
    BEGIN
        IF p_least IS NULL OR p_least < 0 OR p_most IS NULL OR p_most < p_least THEN
            RAISE EXCEPTION 'an amount to reserve is not negative, nor at least more than at most'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF p_ttl IS NULL OR p_ttl <= interval '0' OR p_ttl > interval '1 day' THEN
            RAISE EXCEPTION 'a reservation lives for more than nothing and at most a day'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF EXISTS (SELECT FROM purged p WHERE p.project_id = p_project) THEN
            RAISE EXCEPTION 'the project was purged' USING ERRCODE = 'CM402';
        END IF;
        INSERT INTO month (project_id, month) VALUES (p_project, this) ON CONFLICT DO NOTHING;
        SELECT m.spent_micro_usd + m.reserved_micro_usd INTO taken
            FROM month m WHERE m.project_id = p_project AND m.month = this FOR UPDATE;
        SELECT b.monthly_micro_usd INTO allowed FROM budget b WHERE b.project_id = p_project;
        IF allowed IS NOT NULL AND taken + greatest(p_least, 1) > allowed THEN
            RAISE EXCEPTION 'the budget of the month is exhausted' USING ERRCODE = 'CM402';
        END IF;
        -- Without a budget nothing is left over: least() passes over NULL.
        amount := greatest(p_least, least(p_most, (allowed - taken) / 100));
        UPDATE month m SET reserved_micro_usd = m.reserved_micro_usd + amount
            WHERE m.project_id = p_project AND m.month = this;
        INSERT INTO reservation AS r (project_id, month, amount_micro_usd, expires_at)
            VALUES (p_project, this, amount, now() + p_ttl) RETURNING r.id INTO id;
        RETURN NEXT;
    END
    $$
"""

RESERVE = """
    CREATE OR REPLACE FUNCTION usage.reserve(p_project text, p_amount bigint, p_ttl interval)
    RETURNS uuid
    LANGUAGE sql SECURITY DEFINER SET search_path = usage, pg_temp
    AS $$ SELECT l.id FROM lease(p_project, p_amount, p_amount, p_ttl) l $$
"""

# Books entries and gives back what blocks have too much, once for each batch.
#   p_entries: as for `record`; `reservation` names the block an entry was paid from, if any.
#   p_blocks: project_id, reservation, back_micro_usd, and done where nothing more will come.
# What was drawn from a block is spent in the block's month, everything else in the running
# one. A block that was swept, settled or forgotten has nothing left to lower; the cost counts.
DRAW = """
    CREATE FUNCTION usage.draw(p_batch uuid, p_entries jsonb, p_blocks jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = usage, pg_temp
    AS $$
    DECLARE
        held record;
        lowered jsonb := '[]';
    BEGIN
        INSERT INTO batch (id) VALUES (p_batch) ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            RETURN;
        END IF;
        FOR held IN
            SELECT r.id, r.project_id, r.month, n.project_id AS named_by, n.done,
                   CASE WHEN r.settled_at IS NOT NULL OR r.released_at IS NOT NULL THEN 0
                        WHEN n.done THEN r.amount_micro_usd
                        ELSE least(n.less, r.amount_micro_usd) END AS less
            FROM (
                SELECT t.project_id, t.reservation, sum(t.less) AS less, bool_or(t.done) AS done
                FROM (
                    SELECT e.project_id, e.reservation, coalesce(e.cost_micro_usd, 0), false
                    FROM jsonb_to_recordset(p_entries) AS e(
                        project_id text, reservation uuid, cost_micro_usd bigint
                    )
                    UNION ALL
                    SELECT b.project_id, b.reservation, greatest(b.back_micro_usd, 0),
                           coalesce(b.done, false)
                    FROM jsonb_to_recordset(p_blocks) AS b(
                        project_id text, reservation uuid, back_micro_usd bigint, done boolean
                    )
                ) t(project_id, reservation, less, done)
                GROUP BY t.project_id, t.reservation
            ) n
            JOIN reservation r ON r.id = n.reservation
            ORDER BY r.id FOR UPDATE OF r
        LOOP
            IF held.named_by IS DISTINCT FROM held.project_id THEN
                RAISE EXCEPTION 'the project has no such reservation' USING ERRCODE = 'CM404';
            END IF;
            UPDATE reservation r SET
                amount_micro_usd = r.amount_micro_usd - held.less,
                settled_at = CASE WHEN held.done THEN coalesce(r.settled_at, now())
                                  ELSE r.settled_at END
                WHERE r.id = held.id;
            lowered := lowered || jsonb_build_object(
                'project_id', held.project_id, 'month', held.month, 'less', held.less);
        END LOOP;
        -- Also of months that are only lowered, so that all are locked in one order.
        INSERT INTO month AS m (project_id, month, spent_micro_usd)
        SELECT t.project_id, t.month, sum(t.cost)
        FROM (
            SELECT e.project_id, coalesce(r.month, this_month()), e.cost_micro_usd
            FROM jsonb_to_recordset(p_entries) AS e(
                project_id text, reservation uuid, cost_micro_usd bigint
            )
            LEFT JOIN reservation r ON r.id = e.reservation
            WHERE e.cost_micro_usd > 0
            UNION ALL
            SELECT l.project_id, l.month, 0
            FROM jsonb_to_recordset(lowered) AS l(project_id text, month date, less bigint)
            WHERE l.less > 0
        ) t(project_id, month, cost)
        WHERE NOT EXISTS (SELECT FROM purged p WHERE p.project_id = t.project_id)
        GROUP BY t.project_id, t.month ORDER BY t.project_id, t.month
        ON CONFLICT (project_id, month) DO UPDATE
            SET spent_micro_usd = m.spent_micro_usd + excluded.spent_micro_usd;
        UPDATE month m SET reserved_micro_usd = m.reserved_micro_usd - t.less
        FROM (
            SELECT l.project_id, l.month, sum(l.less) AS less
            FROM jsonb_to_recordset(lowered) AS l(project_id text, month date, less bigint)
            GROUP BY l.project_id, l.month
        ) t
        WHERE m.project_id = t.project_id AND m.month = t.month AND t.less > 0;
        PERFORM book(p_entries);
    END
    $$
"""

SWEEP = """
    CREATE OR REPLACE FUNCTION usage.sweep() RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = usage, pg_temp
    AS $$
    DECLARE
        orphans uuid[];
    BEGIN
        IF NOT pg_try_advisory_xact_lock(hashtextextended('usage.sweep', 0)) THEN
            RETURN 0;
        END IF;
        DELETE FROM batch b WHERE b.at < now() - interval '1 day';
        DELETE FROM reservation r WHERE r.id IN (
            SELECT o.id FROM reservation o
            WHERE coalesce(o.settled_at, o.released_at) < now() - interval '1 day'
            FOR UPDATE SKIP LOCKED
        );
        SELECT coalesce(array_agg(o.id), '{}') INTO orphans FROM (
            SELECT r.id FROM reservation r
            WHERE r.settled_at IS NULL AND r.released_at IS NULL AND r.expires_at < now()
            FOR UPDATE SKIP LOCKED
        ) o;
        PERFORM FROM month m
            WHERE (m.project_id, m.month) IN (
                SELECT r.project_id, r.month FROM reservation r WHERE r.id = ANY (orphans)
            )
            ORDER BY m.project_id, m.month FOR UPDATE;
        WITH freed AS (
            UPDATE reservation r SET released_at = now() WHERE r.id = ANY (orphans)
            RETURNING r.project_id, r.month, r.amount_micro_usd
        ), total AS (
            SELECT f.project_id, f.month, sum(f.amount_micro_usd) AS amount
            FROM freed f GROUP BY f.project_id, f.month
        )
        UPDATE month m SET reserved_micro_usd = m.reserved_micro_usd - t.amount
        FROM total t WHERE m.project_id = t.project_id AND m.month = t.month;
        -- What was written while its project was being purged.
        DELETE FROM ledger l USING purged p WHERE l.project_id = p.project_id;
        DELETE FROM daily d USING purged p WHERE d.project_id = p.project_id;
        DELETE FROM month m USING purged p WHERE m.project_id = p.project_id;
        DELETE FROM purged p WHERE p.at < now() - interval '1 day';
        RETURN cardinality(orphans);
    END
    $$
"""

PURGE = """
    CREATE OR REPLACE FUNCTION usage.purge(p_project text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = usage, pg_temp
    AS $$
    DECLARE
        removed bigint;
    BEGIN
        INSERT INTO purged (project_id) VALUES (p_project) ON CONFLICT DO NOTHING;
        PERFORM FROM reservation r WHERE r.project_id = p_project ORDER BY r.id FOR UPDATE;
        DELETE FROM reservation r WHERE r.project_id = p_project;
        PERFORM FROM month m WHERE m.project_id = p_project ORDER BY m.month FOR UPDATE;
        DELETE FROM month m WHERE m.project_id = p_project;
        PERFORM FROM daily d WHERE d.project_id = p_project
            ORDER BY d.day, d.stage, d.provider, d.model FOR UPDATE;
        DELETE FROM daily d WHERE d.project_id = p_project;
        DELETE FROM ledger l WHERE l.project_id = p_project;
        GET DIAGNOSTICS removed = ROW_COUNT;
        DELETE FROM budget b WHERE b.project_id = p_project;
        RETURN removed;
    END
    $$
"""

SPENDERS = "citemesh_embedding, citemesh_rerank, citemesh_generation, citemesh_gateway"
SPENDING = ("lease(text, bigint, bigint, interval)", "draw(uuid, jsonb, jsonb)")


def upgrade() -> None:
    """Creates the table of batches and the functions, and orders the locks of those there are."""
    for statement in (*BATCHES, LEASE, RESERVE, DRAW, SWEEP, PURGE):
        op.execute(statement)
    for signature in SPENDING:
        op.execute(f"REVOKE EXECUTE ON FUNCTION usage.{signature} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION usage.{signature} TO {SPENDERS}")
