"""Budgets, reservations, the ledger, and the functions every spender calls.

No role but the owner touches the tables: a service asks `reserve` before it
spends and tells `settle` after, whatever happened in between.

    open ──settle──> settled          (`settle` again: nothing happens)
      └──sweep───> released ──settle──> settled   (late, the cost still counts)

Locks are always taken in the order reservation, month, day, so that no two
functions wait for each other.
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    """
    CREATE TABLE usage.budget (
        project_id text PRIMARY KEY,
        -- Millionths of a US dollar a calendar month (UTC). No row: no limit.
        monthly_micro_usd bigint NOT NULL CHECK (monthly_micro_usd >= 0),
        updated_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    """
    CREATE TABLE usage.month (
        project_id text NOT NULL,
        month date NOT NULL,
        spent_micro_usd bigint NOT NULL DEFAULT 0 CHECK (spent_micro_usd >= 0),
        reserved_micro_usd bigint NOT NULL DEFAULT 0 CHECK (reserved_micro_usd >= 0),
        PRIMARY KEY (project_id, month)
    )
    """,
    """
    CREATE TABLE usage.reservation (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        project_id text NOT NULL,
        month date NOT NULL,
        amount_micro_usd bigint NOT NULL CHECK (amount_micro_usd >= 0),
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL,
        released_at timestamptz,
        settled_at timestamptz
    )
    """,
    """
    CREATE INDEX reservation_open ON usage.reservation (expires_at)
        WHERE settled_at IS NULL AND released_at IS NULL
    """,
    "CREATE INDEX reservation_project ON usage.reservation (project_id)",
    """
    CREATE TABLE usage.ledger (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        at timestamptz NOT NULL DEFAULT now(),
        project_id text NOT NULL,
        stage text NOT NULL,
        provider text NOT NULL,
        model text NOT NULL,
        input_tokens bigint NOT NULL CHECK (input_tokens >= 0),
        output_tokens bigint NOT NULL CHECK (output_tokens >= 0),
        cost_micro_usd bigint NOT NULL CHECK (cost_micro_usd >= 0),
        request_id text NOT NULL
    )
    """,
    "CREATE INDEX ledger_project ON usage.ledger (project_id, at)",
    """
    CREATE TABLE usage.daily (
        project_id text NOT NULL,
        day date NOT NULL,
        stage text NOT NULL,
        provider text NOT NULL,
        model text NOT NULL,
        requests bigint NOT NULL,
        input_tokens bigint NOT NULL,
        output_tokens bigint NOT NULL,
        cost_micro_usd bigint NOT NULL,
        PRIMARY KEY (project_id, day, stage, provider, model)
    )
    """,
    # Ids of purged projects for a day, so that a call that was under way when its
    # project was purged does not leave a row behind.
    """
    CREATE TABLE usage.purged (
        project_id text PRIMARY KEY,
        at timestamptz NOT NULL DEFAULT now()
    )
    """,
)

NAMES = ("budget", "month", "reservation", "ledger", "daily", "purged")

FUNCTIONS = (
    """
    CREATE FUNCTION usage.this_month() RETURNS date
    LANGUAGE sql STABLE SET search_path = usage, pg_temp
    AS $$ SELECT date_trunc('month', now() AT TIME ZONE 'UTC')::date $$
    """,
    # Ledger and daily sums; the one place that knows the columns of an entry.
    """
    CREATE FUNCTION usage.book(p_entries jsonb) RETURNS void
    LANGUAGE sql SET search_path = usage, pg_temp
    AS $$
        WITH entry AS (
            SELECT e.project_id, e.stage, e.provider, e.model,
                   coalesce(e.input_tokens, 0) AS input_tokens,
                   coalesce(e.output_tokens, 0) AS output_tokens,
                   coalesce(e.cost_micro_usd, 0) AS cost_micro_usd,
                   coalesce(e.request_id, '') AS request_id
            FROM jsonb_to_recordset(p_entries) AS e(
                project_id text, stage text, provider text, model text, input_tokens bigint,
                output_tokens bigint, cost_micro_usd bigint, request_id text
            )
            WHERE NOT EXISTS (SELECT FROM purged p WHERE p.project_id = e.project_id)
        ), line AS (
            INSERT INTO ledger (project_id, stage, provider, model, input_tokens,
                                output_tokens, cost_micro_usd, request_id)
            SELECT project_id, stage, provider, model, input_tokens,
                   output_tokens, cost_micro_usd, request_id
            FROM entry
        )
        INSERT INTO daily AS d (project_id, day, stage, provider, model, requests,
                                input_tokens, output_tokens, cost_micro_usd)
        SELECT project_id, (now() AT TIME ZONE 'UTC')::date, stage, provider, model, count(*),
               sum(input_tokens), sum(output_tokens), sum(cost_micro_usd)
        FROM entry
        GROUP BY project_id, stage, provider, model
        ORDER BY project_id, stage, provider, model
        ON CONFLICT (project_id, day, stage, provider, model) DO UPDATE SET
            requests = d.requests + excluded.requests,
            input_tokens = d.input_tokens + excluded.input_tokens,
            output_tokens = d.output_tokens + excluded.output_tokens,
            cost_micro_usd = d.cost_micro_usd + excluded.cost_micro_usd
    $$
    """,
    # An amount of 0 asks whether the project may spend anything at all.
    # The row of the month is locked before anything is compared, so reservations
    # of one project come one after the other and never exceed the budget together.
    """
    CREATE FUNCTION usage.reserve(p_project text, p_amount bigint, p_ttl interval) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = usage, pg_temp
    AS $$
    DECLARE
        this month.month%TYPE := this_month();
        taken bigint;
        allowed bigint;
        reservation_id uuid;
    BEGIN
        IF p_amount IS NULL OR p_amount < 0 THEN
            RAISE EXCEPTION 'an amount to reserve is not negative'
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
        IF allowed IS NOT NULL AND taken + greatest(p_amount, 1) > allowed THEN
            RAISE EXCEPTION 'the budget of the month is exhausted' USING ERRCODE = 'CM402';
        END IF;
        UPDATE month m SET reserved_micro_usd = m.reserved_micro_usd + p_amount
            WHERE m.project_id = p_project AND m.month = this;
        INSERT INTO reservation (project_id, month, amount_micro_usd, expires_at)
            VALUES (p_project, this, p_amount, now() + p_ttl) RETURNING id INTO reservation_id;
        RETURN reservation_id;
    END
    $$
    """,
    # A reservation that was swept still settles: the money was spent all the same.
    """
    CREATE FUNCTION usage.settle(
        p_reservation uuid, p_project text, p_stage text, p_provider text, p_model text,
        p_input bigint, p_output bigint, p_cost bigint, p_request_id text
    ) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = usage, pg_temp
    AS $$
    DECLARE
        held reservation;
    BEGIN
        SELECT * INTO held FROM reservation r
            WHERE r.id = p_reservation AND r.project_id = p_project FOR UPDATE;
        IF NOT FOUND THEN
            IF EXISTS (SELECT FROM purged p WHERE p.project_id = p_project) THEN
                RETURN;
            END IF;
            RAISE EXCEPTION 'the project has no such reservation' USING ERRCODE = 'CM404';
        END IF;
        IF held.settled_at IS NOT NULL THEN
            RETURN;
        END IF;
        UPDATE reservation r SET settled_at = now() WHERE r.id = p_reservation;
        UPDATE month m SET
            spent_micro_usd = m.spent_micro_usd + p_cost,
            reserved_micro_usd = m.reserved_micro_usd
                - CASE WHEN held.released_at IS NULL THEN held.amount_micro_usd ELSE 0 END
            WHERE m.project_id = held.project_id AND m.month = held.month;
        PERFORM book(jsonb_build_array(jsonb_build_object(
            'project_id', p_project, 'stage', p_stage, 'provider', p_provider, 'model', p_model,
            'input_tokens', p_input, 'output_tokens', p_output, 'cost_micro_usd', p_cost,
            'request_id', p_request_id)));
    END
    $$
    """,
    """
    CREATE FUNCTION usage.record(p_entries jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = usage, pg_temp
    AS $$
    BEGIN
        INSERT INTO month AS m (project_id, month, spent_micro_usd)
        SELECT e.project_id, this_month(), sum(e.cost_micro_usd)
        FROM jsonb_to_recordset(p_entries) AS e(project_id text, cost_micro_usd bigint)
        WHERE e.cost_micro_usd > 0
            AND NOT EXISTS (SELECT FROM purged p WHERE p.project_id = e.project_id)
        GROUP BY e.project_id ORDER BY e.project_id
        ON CONFLICT (project_id, month) DO UPDATE
            SET spent_micro_usd = m.spent_micro_usd + excluded.spent_micro_usd;
        PERFORM book(p_entries);
    END
    $$
    """,
    # Releases what was reserved by callers that died, and forgets what is over.
    # One sweeper at a time: it holds many reservations at once.
    """
    CREATE FUNCTION usage.sweep() RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = usage, pg_temp
    AS $$
    DECLARE
        released bigint;
    BEGIN
        IF NOT pg_try_advisory_xact_lock(hashtextextended('usage.sweep', 0)) THEN
            RETURN 0;
        END IF;
        WITH orphan AS (
            SELECT r.id FROM reservation r
            WHERE r.settled_at IS NULL AND r.released_at IS NULL AND r.expires_at < now()
            FOR UPDATE SKIP LOCKED
        ), freed AS (
            UPDATE reservation r SET released_at = now() FROM orphan
            WHERE r.id = orphan.id RETURNING r.project_id, r.month, r.amount_micro_usd
        ), total AS (
            SELECT f.project_id, f.month, sum(f.amount_micro_usd) AS amount, count(*) AS rows
            FROM freed f GROUP BY f.project_id, f.month
        ), returned AS (
            UPDATE month m SET reserved_micro_usd = m.reserved_micro_usd - t.amount
            FROM total t WHERE m.project_id = t.project_id AND m.month = t.month
        )
        SELECT coalesce(sum(rows), 0) INTO released FROM total;
        DELETE FROM reservation r
            WHERE coalesce(r.settled_at, r.released_at) < now() - interval '1 day';
        -- What was written while its project was being purged.
        DELETE FROM ledger l USING purged p WHERE l.project_id = p.project_id;
        DELETE FROM daily d USING purged p WHERE d.project_id = p.project_id;
        DELETE FROM month m USING purged p WHERE m.project_id = p.project_id;
        DELETE FROM purged p WHERE p.at < now() - interval '1 day';
        RETURN released;
    END
    $$
    """,
    """
    CREATE FUNCTION usage.set_budget(p_project text, p_monthly bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = usage, pg_temp
    AS $$
    BEGIN
        IF p_monthly IS NULL THEN
            DELETE FROM budget b WHERE b.project_id = p_project;
        ELSE
            INSERT INTO budget (project_id, monthly_micro_usd) VALUES (p_project, p_monthly)
            ON CONFLICT (project_id) DO UPDATE
                SET monthly_micro_usd = excluded.monthly_micro_usd, updated_at = now();
        END IF;
    END
    $$
    """,
    # Always one row; a limit of NULL means that there is none.
    """
    CREATE FUNCTION usage.budget_of(p_project text)
    RETURNS TABLE (
        month date, limit_micro_usd bigint, spent_micro_usd bigint, reserved_micro_usd bigint
    )
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = usage, pg_temp
    AS $$
        SELECT this_month(), b.monthly_micro_usd,
               coalesce(m.spent_micro_usd, 0), coalesce(m.reserved_micro_usd, 0)
        FROM (SELECT p_project AS project_id) p
        LEFT JOIN budget b ON b.project_id = p.project_id
        LEFT JOIN month m ON m.project_id = p.project_id AND m.month = this_month()
    $$
    """,
    """
    CREATE FUNCTION usage.daily_of(p_project text, p_from date, p_to date)
    RETURNS TABLE (
        day date, stage text, provider text, model text, requests bigint,
        input_tokens bigint, output_tokens bigint, cost_micro_usd bigint
    )
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = usage, pg_temp
    AS $$
        SELECT d.day, d.stage, d.provider, d.model, d.requests,
               d.input_tokens, d.output_tokens, d.cost_micro_usd
        FROM daily d
        WHERE d.project_id = p_project AND d.day BETWEEN p_from AND p_to
        ORDER BY d.day DESC, d.stage, d.provider, d.model
    $$
    """,
    """
    CREATE FUNCTION usage.purge(p_project text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = usage, pg_temp
    AS $$
    DECLARE
        removed bigint;
    BEGIN
        INSERT INTO purged (project_id) VALUES (p_project) ON CONFLICT DO NOTHING;
        DELETE FROM reservation r WHERE r.project_id = p_project;
        DELETE FROM month m WHERE m.project_id = p_project;
        DELETE FROM daily d WHERE d.project_id = p_project;
        DELETE FROM ledger l WHERE l.project_id = p_project;
        GET DIAGNOSTICS removed = ROW_COUNT;
        DELETE FROM budget b WHERE b.project_id = p_project;
        RETURN removed;
    END
    $$
    """,
)

SPENDERS = "citemesh_embedding, citemesh_rerank, citemesh_generation, citemesh_gateway"

GRANTS = (
    "REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA usage FROM PUBLIC",
    f"GRANT USAGE ON SCHEMA usage TO {SPENDERS}",
    f"GRANT EXECUTE ON FUNCTION usage.reserve(text, bigint, interval) TO {SPENDERS}",
    f"""
    GRANT EXECUTE ON FUNCTION
        usage.settle(uuid, text, text, text, text, bigint, bigint, bigint, text) TO {SPENDERS}
    """,
    f"GRANT EXECUTE ON FUNCTION usage.record(jsonb) TO {SPENDERS}",
    f"GRANT EXECUTE ON FUNCTION usage.sweep() TO {SPENDERS}",
    "GRANT EXECUTE ON FUNCTION usage.set_budget(text, bigint) TO citemesh_gateway",
    "GRANT EXECUTE ON FUNCTION usage.budget_of(text) TO citemesh_gateway",
    "GRANT EXECUTE ON FUNCTION usage.daily_of(text, date, date) TO citemesh_gateway",
    "GRANT EXECUTE ON FUNCTION usage.purge(text) TO citemesh_gateway",
)


def upgrade() -> None:
    """Creates the schema's tables, policies and functions."""
    for statement in TABLES:
        op.execute(statement)
    for name in NAMES:
        op.execute(f"ALTER TABLE usage.{name} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE usage.{name} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY functions ON usage.{name} TO citemesh_usage_owner USING (true)")
    for statement in (*FUNCTIONS, *GRANTS):
        op.execute(statement)
