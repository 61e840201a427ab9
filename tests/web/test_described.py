"""What is said about the routes; test_openapi compares it with them."""

from hedgehogd.web.described import PATHS, TAGS


def test_reads_of_the_exchange_have_the_exchanges_errors():
    """Its clients read ``message``; ours read ``error``."""
    for path, methods in PATHS.items():
        for operation in methods.values():
            forms = {
                answer["content"]["application/json"]["schema"].get("$ref")
                for status, answer in operation["responses"].items()
                if status >= "400" and path not in {"/healthz", "/readyz"}
            }
            of_exchange = operation["tags"] == ["exchange"]
            name = "ExchangeError" if of_exchange else "Error"
            assert forms <= {f"#/components/schemas/{name}"}, path


def test_only_reads_with_a_query_can_be_bad():
    found = {
        path
        for path, methods in PATHS.items()
        if methods.get("get", {}).get("tags") == ["exchange"]
        and "400" in methods["get"]["responses"]
    }

    assert found == {f"/products/{{pair}}/{subject}" for subject in ("book", "trades", "candles")}


def test_tags_are_explained():
    assert all(text.endswith(".") for text in TAGS.values())
