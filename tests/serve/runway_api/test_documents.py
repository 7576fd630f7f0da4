"""Documents are texts that avatars share."""

from pathlib import Path

import pytest

from tests.serve.runway_api.api_kit import AVATAR, Served, served

HOURS = {"name": "Hours", "content": "Nine to five."}


def test_a_document_is_kept_changed_and_deleted(tmp_path: Path):
    async def script(one: Served) -> None:
        made = await one.ask("POST", "/documents", HOURS)
        path = f"/documents/{made['id']}"
        assert await one.ask("GET", path) == made and made["content"] == "Nine to five."
        await one.ask("PATCH", path, {"content": "Nine to six."}, status=204)
        changed = await one.ask("GET", path)
        assert (changed["name"], changed["content"]) == ("Hours", "Nine to six.")
        assert changed["updatedAt"] >= made["updatedAt"] and changed["createdAt"] == made["createdAt"]
        await one.ask("DELETE", path, status=204)
        await one.ask("GET", path, status=404)

    served(script, tmp_path)


def test_it_says_which_avatars_use_it_and_leaves_them_when_it_is_deleted(tmp_path: Path):
    async def script(one: Served) -> None:
        first, second = [(await one.ask("POST", "/documents", HOURS))["id"] for _ in range(2)]
        avatar = await one.ask("POST", "/avatars", AVATAR | {"documentIds": [second, first, second]})
        assert avatar["documentIds"] == [second, first]
        (user,) = (await one.ask("GET", f"/documents/{first}"))["usedBy"]
        assert (user["id"], user["name"]) == (avatar["id"], "Vera")
        await one.ask("DELETE", f"/documents/{first}", status=204)
        assert (await one.ask("GET", f"/avatars/{avatar['id']}"))["documentIds"] == [second]
        replaced = await one.ask("PATCH", f"/avatars/{avatar['id']}", {"documentIds": []})
        assert replaced["documentIds"] == [] and (await one.ask("GET", f"/documents/{second}"))["usedBy"] == []

    served(script, tmp_path)


def test_lists_are_in_the_order_that_is_asked_for_page_by_page(tmp_path: Path):
    async def script(one: Served) -> None:
        ids = [(await one.ask("POST", "/documents", HOURS))["id"] for _ in range(3)]
        await one.ask("PATCH", f"/documents/{ids[0]}", {"name": "New"}, status=204)
        page = await one.ask("GET", "/documents?limit=2&sort=updatedAt")
        assert page["hasMore"] and page["data"][0]["id"] == ids[0] and "content" not in page["data"][0]
        rest = await one.ask("GET", f"/documents?limit=2&sort=updatedAt&cursor={page['nextCursor']}")
        assert (rest["hasMore"], rest["nextCursor"]) == (False, None)
        assert {each["id"] for each in page["data"] + rest["data"]} == set(ids)
        oldest = await one.ask("GET", "/documents?order=asc")
        assert oldest["data"][0]["createdAt"] <= oldest["data"][-1]["createdAt"]

    served(script, tmp_path)


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "cursor=", "order=up", f"cursor={'x' * 1001}"])
def test_a_query_that_cannot_be_is_refused(query: str, tmp_path: Path):
    async def script(one: Served) -> None:
        refused = await one.ask("GET", f"/documents?{query}", status=400)
        assert refused["issues"][0]["path"] == [query.partition("=")[0]]

    served(script, tmp_path)
