"""Helpers that read the control plane's responses."""

import json


async def body(answer):
    assert answer.content_type == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    return json.loads(await answer.get_data())


async def refused(answer):
    """Return an error's status and code; assert that it has a message for people."""
    error = (await body(answer))["error"]
    assert error.keys() == {"code", "message"}
    assert len(error["message"]) > 5
    return answer.status_code, error["code"]


def channels(state):
    return {row["name"]: row["product_ids"] for row in state["channels"]}
