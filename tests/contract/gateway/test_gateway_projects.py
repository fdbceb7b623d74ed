"""Projects and keys: made, limited, exported, and gone without a trace."""

from __future__ import annotations

import json
import stat
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from citemesh.generation import v1 as generation_v1
from citemesh.ingestion import v1 as ingestion_v1
from gateway.api_keys import digest, looks_like_key
from gateway.bootstrap import bootstrap
from meshkit.errors import Unavailable
from meshkit.identity import Verifier
from meshkit.project import ProjectSettings


def name() -> str:
    return f"project {uuid.uuid4().hex}"


async def test_a_project_and_its_first_key_are_made_over_rest(gateway: Any) -> None:
    async with gateway.client(await gateway.key("admin")) as admin:
        made = await admin.post("/v1/projects", json={"name": (called := name())})
        assert made.status_code == 201
        project = made.json()
        assert project["name"] == called
        assert project["state"] == "active"
        assert project["budget"]["limit_usd"] is None
        again = await admin.post("/v1/projects", json={"name": called})
        assert (again.status_code, again.json()["reason"]) == (409, "PROJECT_NAME_TAKEN")
        key = await admin.post(
            "/v1/keys",
            json={
                "name": "reader",
                "project_id": project["id"],
                "scopes": ["read"],
                "principals": ["group:hr"],
            },
        )
        assert key.status_code == 201
        listed = (await admin.get("/v1/keys", params={"project_id": project["id"]})).json()["keys"]
    secret = key.json()["key"]
    assert looks_like_key(secret)
    assert secret.startswith(key.json()["prefix"])
    assert [found["id"] for found in listed] == [key.json()["id"]]
    assert "key" not in listed[0], "a key is shown once"
    async with gateway.client(secret) as client:
        assert (await client.get("/v1/usage")).json()["project_id"] == project["id"]


async def test_a_key_is_only_made_for_what_exists_and_may_be_granted(gateway: Any) -> None:
    async with gateway.client(await gateway.key("admin")) as admin:
        nowhere = await admin.post("/v1/keys", json={"name": "k", "project_id": "prj_none"})
        internal = await admin.post("/v1/keys", json={"name": "k", "scopes": ["internal"]})
        past = await admin.post(
            "/v1/keys", json={"name": "k", "expires_at": "2020-01-01T00:00:00Z"}
        )
        unknown = await admin.delete("/v1/keys/key_none")
    assert (nowhere.status_code, nowhere.json()["reason"]) == (404, "PROJECT_NOT_FOUND")
    assert (internal.status_code, internal.json()["reason"]) == (400, "FIELD_INVALID")
    assert past.status_code == 400
    assert (unknown.status_code, unknown.json()["reason"]) == (404, "KEY_NOT_FOUND")


async def test_projects_are_listed_page_by_page(gateway: Any) -> None:
    async with gateway.client(await gateway.key("admin")) as admin:
        made = {
            (await admin.post("/v1/projects", json={"name": name()})).json()["id"] for _ in "abc"
        }
        seen: list[str] = []
        token = ""
        while True:
            query = {"page_size": 2, "page_token": token}
            page = (await admin.get("/v1/projects", params=query)).json()
            assert len(page["projects"]) <= 2
            seen += [project["id"] for project in page["projects"]]
            token = page["next_page_token"]
            if not token:
                break
        wrong = await admin.get("/v1/projects", params={"page_token": "nonsense"})
    assert made <= set(seen)
    assert len(seen) == len(set(seen))
    assert wrong.json()["reason"] == "PAGE_TOKEN_INVALID"


async def test_a_budget_is_set_lifted_and_shown_with_what_was_spent(
    gateway: Any, postgres: Any
) -> None:
    async with gateway.client(await gateway.key("admin")) as admin:
        body = {"name": name(), "budget_micro_usd": 2_000_000}
        project = (await admin.post("/v1/projects", json=body)).json()
        assert project["budget"]["limit_usd"] == 2.0
        spender = await asyncpg.connect(postgres.dsn("generation"))
        try:
            reservation = await spender.fetchval(
                "SELECT usage.reserve($1, 500000, $2)", project["id"], timedelta(minutes=1)
            )
            await spender.execute(
                "SELECT usage.settle($1, $2, 'generate', 'gemini', 'm', 10, 20, 250000, 'req_1')",
                reservation,
                project["id"],
            )
        finally:
            await spender.close()
        key = await gateway.key("read", project_id=project["id"])
        async with gateway.client(key) as client:
            usage = (await client.get("/v1/usage")).json()
        assert usage["budget"]["spent_usd"] == 0.25
        assert usage["budget"]["left_usd"] == 1.75
        assert usage["total"] == {
            "requests": 1,
            "input_tokens": 10,
            "output_tokens": 20,
            "cost_usd": 0.25,
        }
        (line,) = usage["days"]
        assert (line["stage"], line["provider"], line["model"]) == ("generate", "gemini", "m")
        path = f"/v1/projects/{project['id']}"
        renamed = (await admin.patch(path, json={"name": name()})).json()
        assert renamed["budget"]["limit_usd"] == 2.0, "what is left out stays"
        lifted = (await admin.patch(path, json={"budget_micro_usd": None})).json()
        assert lifted["budget"]["limit_usd"] is None


async def test_what_a_project_decides_travels_with_its_callers(gateway: Any, keyring: Path) -> None:
    verifier = Verifier.load(keyring / "keyring.json")
    async with gateway.client(await gateway.key("admin")) as admin:
        settings = {"chunk_tokens": 80, "fusion": "min_max"}
        body = {"name": name(), "settings": settings}
        project = (await admin.post("/v1/projects", json=body)).json()
        assert project["settings"] == settings
        path = f"/v1/projects/{project['id']}"
        key = await gateway.key("read", project_id=project["id"])
        async with gateway.client(key) as client:

            async def told() -> ProjectSettings:
                token = (await client.post("/v1/token")).json()["token"]
                return verifier.verify(token).settings

            assert await told() == ProjectSettings(chunk_tokens=80, fusion="min_max")
            await admin.patch(path, json={"name": name()})
            assert await told() == ProjectSettings(chunk_tokens=80, fusion="min_max")
            await admin.patch(path, json={"settings": {"lexical_weight": 2}})
            assert await told() == ProjectSettings(lexical_weight=2)
            await admin.patch(path, json={"settings": {}})
            assert await told() == ProjectSettings()


@pytest.mark.parametrize(
    ("settings", "field", "says"),
    [
        ({"chunk_tokens": 7}, "chunk_tokens", "greater than or equal to 8"),
        ({"chunk_tokens": 501}, "chunk_tokens", "less than or equal to 500"),
        ({"chunk_tokens": "80"}, "chunk_tokens", "integer"),
        ({"chunk_tokens": 80, "chunk_overlap_tokens": 41}, "settings", "at most half"),
        ({"chunk_overlap_tokens": 10}, "settings", "needs chunk_tokens"),
        ({"fusion": "magic"}, "fusion", "'rrf' or 'min_max'"),
        ({"dense_weight": -1}, "dense_weight", "greater than or equal to 0"),
        ({"dense_weight": 0, "lexical_weight": 0}, "settings", "nothing is found"),
        ({"chunk_size": 80}, "chunk_size", ""),
    ],
)
async def test_settings_that_cannot_hold_are_refused_by_name(
    gateway: Any, settings: dict[str, Any], field: str, says: str
) -> None:
    async with gateway.client(await gateway.key("admin")) as admin:
        refused = await admin.post("/v1/projects", json={"name": name(), "settings": settings})
    assert refused.status_code == 400
    told = json.dumps(refused.json(), ensure_ascii=False)
    assert field in told
    assert says in told


async def test_usage_refuses_nonsense_days(gateway: Any) -> None:
    async with gateway.client(await gateway.key("read")) as client:
        for query in (
            {"first_day": "2026-02-01", "last_day": "2026-01-01"},
            {"first_day": "1990-01-01", "last_day": "2026-01-01"},
            {"first_day": "someday"},
        ):
            response = await client.get("/v1/usage", params=query)
            assert (response.status_code, response.json()["reason"]) == (400, "FIELD_INVALID")


async def test_a_purge_leaves_nothing_and_gives_a_receipt(gateway: Any, postgres: Any) -> None:
    async def documents(_: Any) -> Any:
        return ingestion_v1.PurgeProjectResponse(
            documents_removed=3, files_removed=4, chunks_removed=50
        )

    async def answers(_: Any) -> Any:
        return generation_v1.PurgeProjectResponse(answers_removed=6, conversations_removed=1)

    gateway.services.replies["PurgeProject citemesh.ingestion.v1"] = documents
    gateway.services.replies["PurgeProject citemesh.generation.v1"] = answers
    admin_key = await gateway.key("admin")
    async with gateway.client(admin_key) as admin:
        project = (
            await admin.post("/v1/projects", json={"name": name(), "budget_micro_usd": 5})
        ).json()["id"]
        key = await gateway.key("read", project_id=project)
        async with gateway.client(key) as client:
            assert (await client.get("/v1/usage")).status_code == 200
            receipt = await admin.delete(f"/v1/projects/{project}")
            assert (await client.get("/v1/usage")).status_code == 401
        gone = await admin.delete(f"/v1/projects/{project}")
    assert receipt.json() == {
        "project_id": project,
        "documents_removed": 3,
        "files_removed": 4,
        "chunks_removed": 50,
        "answers_removed": 6,
        "conversations_removed": 1,
        "usage_entries_removed": 0,
        "keys_removed": 1,
    }
    assert (gone.status_code, gone.json()["reason"]) == (404, "PROJECT_NOT_FOUND")
    assert {seen.project_id for seen in gateway.services.contexts} == {project}
    owner = await asyncpg.connect(postgres.owner_dsn)
    try:
        for question in (
            "SELECT count(*) FROM gateway.project WHERE id = $1",
            "SELECT count(*) FROM gateway.api_key WHERE project_id = $1",
            "SELECT count(*) FROM usage.budget WHERE project_id = $1",
        ):
            assert await owner.fetchval(question, project) == 0
    finally:
        await owner.close()


async def test_a_purge_that_broke_off_is_finished_by_asking_again(gateway: Any) -> None:
    async def fail(_: Any) -> Any:
        raise Unavailable("RETRIEVAL_UNAVAILABLE", "Try again.")

    gateway.services.replies["PurgeProject citemesh.ingestion.v1"] = fail
    async with gateway.client(await gateway.key("admin")) as admin:
        project = (await admin.post("/v1/projects", json={"name": name()})).json()["id"]
        key = await gateway.key("read", project_id=project)
        assert (await admin.delete(f"/v1/projects/{project}")).status_code == 503
        assert (await admin.get(f"/v1/projects/{project}")).json()["state"] == "deleting"
        async with gateway.client(key) as client:
            assert (await client.get("/v1/usage")).status_code == 401
        refused = await admin.post("/v1/keys", json={"name": "k", "project_id": project})
        assert refused.status_code == 404
        del gateway.services.replies["PurgeProject citemesh.ingestion.v1"]
        assert (await admin.delete(f"/v1/projects/{project}")).status_code == 200


async def test_an_export_is_passed_on_as_it_is_read(gateway: Any) -> None:
    async def lines(request: Any) -> AsyncIterator[Any]:
        assert request.documents_only
        for number in range(3):
            line = json.dumps({"kind": "document", "id": number}) + "\n"
            yield ingestion_v1.ExportProjectResponse(lines=line.encode())

    gateway.services.streams["ExportProject"] = lines
    async with gateway.client(await gateway.key("admin")) as admin:
        project = (await admin.post("/v1/projects", json={"name": name()})).json()["id"]
        response = await admin.get(
            f"/v1/projects/{project}/export", params={"documents_only": "true"}
        )
        missing = await admin.get("/v1/projects/prj_none/export")
    assert response.headers["content-type"].startswith("application/jsonl")
    assert [json.loads(line)["id"] for line in response.text.splitlines()] == [0, 1, 2]
    assert gateway.services.contexts[-1].project_id == project
    assert missing.status_code == 404


async def test_bootstrap_makes_a_project_and_a_key_once(
    gateway: Any, database: Any, tmp_path: Path
) -> None:
    file, called = tmp_path / "new" / "api.key", name()
    project, made = await bootstrap(database, called, file)
    assert made
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    secret = file.read_text().strip()
    assert await bootstrap(database, called, file) == (project, False)
    assert file.read_text().strip() == secret
    async with gateway.client(secret) as client:
        assert (await client.get("/v1/usage")).json()["project_id"] == project
        assert (await client.get("/v1/projects")).status_code == 200


async def test_bootstrap_replaces_a_key_that_no_longer_works(
    database: Any, gateway: Any, tmp_path: Path
) -> None:
    file, called = tmp_path / "api.key", name()
    project, _ = await bootstrap(database, called, file)
    old = file.read_text().strip()
    found = await gateway.mesh.keys.find(digest(old))
    await gateway.mesh.keys.revoke(found.id)
    assert await bootstrap(database, called, file) == (project, True)
    assert file.read_text().strip() != old
