"""Arming faults from outside the process."""

from tests.simulator.world import of_type, receive_all


async def test_a_fault_is_fired_by_a_post_and_counted(world, autojump_clock):
    """A script beside a daemon can do the same as a test in the exchange's process."""
    exchange = world(control=True)
    client = await exchange.client("heartbeat")
    await receive_all(client, 0.1)
    before = await (await exchange.rest().post("/faults/reset?param=2&client=1")).get_json()
    _, is_open = await receive_all(client, 5)
    _, listed = await exchange.get("/faults")
    (after,) = [fault for fault in listed["faults"] if fault["name"] == "reset"]

    assert (before["armed"], before["fired"]) == (1, 0)
    assert not is_open
    assert (after["armed"], after["fired"]) == (0, 1)
    assert listed["connections"] == []


async def test_the_list_describes_each_fault_and_its_parameter(world, autojump_clock):
    """Users need not read the source."""
    exchange = world(control=True)
    await exchange.client("heartbeat")
    status, listed = await exchange.get("/faults")
    faults = {fault["name"]: fault for fault in listed["faults"]}

    assert status == 200
    assert faults["http"] == {
        "name": "http",
        "says": "a handshake is answered with an HTTP status",
        "param": "status, or status x times",
        "default": "503",
        "armed": 0,
        "fired": 0,
    }
    assert faults["binary"]["param"] is None


async def test_an_invalid_fault_is_refused_with_the_valid_form(world, autojump_clock):
    """404 for an unknown name, 400 otherwise; one line each."""
    post = world(control=True).rest().post
    answers = [
        await post(path)
        for path in (
            "/faults/rest",
            "/faults/late?param=x",
            "/faults/late?product=NO-USD",
            "/faults/late?client=9",
            "/faults/late?client=x",
        )
    ]

    assert [answer.status_code for answer in answers] == [404, 400, 400, 400, 400]
    messages = [(await answer.get_json())["message"] for answer in answers]
    assert messages[0] == "there is no fault 'rest' Did you mean 'reset'?"
    assert messages[1:] == [
        "fault late: found 'x', expected a whole number from 1 to 10000",
        "fault late: there is no product 'NO-USD'",
        "fault late: there is no connection 9",
        "client: found 'x', expected a number",
    ]


async def test_the_routes_exist_only_when_enabled(world, autojump_clock):
    """The demo market of a daemon listens on a port too."""
    exchange = world()

    assert (await exchange.get("/faults"))[0] == 404
    assert (await exchange.rest().post("/faults/reset")).status_code == 404


async def test_the_routes_work_during_a_rest_fault(world, autojump_clock):
    """The user that armed it must be able to arm another one."""
    exchange = world(control=True)
    exchange.faults.fire("rest_error", "500x9")
    assert (await exchange.get("/time"))[0] == 500
    assert (await exchange.get("/faults"))[0] == 200


async def test_an_auction_is_held_on_request(world, autojump_clock):
    """``auctionfeed`` sends only while a product is in auction (docs/COINBASE.md §5)."""
    exchange = world(control=True, rate=1)
    client = await exchange.client("auctionfeed")
    before, _ = await receive_all(client, 3)
    answer = await exchange.rest().post("/auctions/BTC-USD?seconds=5")
    during, _ = await receive_all(client, 4)
    _, book = await exchange.get("/products/BTC-USD/book")
    after, _ = await receive_all(client, 10)
    wrong = [
        (await exchange.rest().post(path)).status_code
        for path in ("/auctions/NO-USD", "/auctions/BTC-USD?seconds=x")
    ]

    assert answer.status_code == 200
    assert of_type(before, "auction") == []
    assert 3 <= len(of_type(during, "auction")) <= 5
    assert len(of_type(after, "auction")) <= 2
    assert book["auction_mode"]
    assert not (await exchange.get("/products/BTC-USD/book"))[1]["auction_mode"]
    assert wrong == [404, 400]
