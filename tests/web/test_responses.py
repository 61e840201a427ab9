"""JSON responses and errors of the control plane."""

import json

from quart_trio import QuartTrio

from hedgehogd.web.responses import error_response, json_response


async def test_a_response_is_json_that_no_cache_may_store():
    """A proxy that stores the state of a stream would return an old state to the next client."""
    answer = json_response({"a": 1}, 201)

    assert (201, "application/json") == (answer.status_code, answer.content_type)
    assert "no-store" == answer.headers["Cache-Control"]
    assert {"a": 1} == json.loads(await answer.get_data())


async def test_an_error_has_a_code_for_machines_and_a_text_for_people():
    """Every error has this form, except on the exchange's paths."""
    async with QuartTrio("test").test_request_context("/api/v1/subscribe/XXX"):
        answer = error_response("unknown_pair", "XXX is not listed", 404)

    assert 404 == answer.status_code
    assert json.loads(await answer.get_data()) == {
        "error": {"code": "unknown_pair", "message": "XXX is not listed"}
    }


async def test_an_error_of_a_coinbase_path_has_coinbases_form():
    """Clients of the exchange read ``message``."""
    async with QuartTrio("test").test_request_context("/products/XXX/book"):
        answer = error_response("bug", "something is wrong", 500)

    assert json.loads(await answer.get_data()) == {"message": "something is wrong"}
