"""Making things go wrong from outside the process."""

from tests.simulator.world import hear_all, of_type


async def test_a_fault_is_fired_by_a_post_and_counted(world, autojump_clock):
    """A script beside a daemon can do what a test in its process can."""
    here = world(control=True)
    client = await here.client("heartbeat")
    await hear_all(client, 0.1)
    before = await (await here.rest().post("/faults/reset?param=2&client=1")).get_json()
    _, is_open = await hear_all(client, 5)
    _, listed = await here.get("/faults")
    (after,) = [fault for fault in listed["faults"] if fault["name"] == "reset"]

    assert (before["armed"], before["fired"]) == (1, 0)
    assert not is_open
    assert (after["armed"], after["fired"]) == (0, 1)
    assert listed["connections"] == []


async def test_the_list_says_what_each_does_and_takes(world, autojump_clock):
    """So that nobody need read the source."""
    here = world(control=True)
    await here.client("heartbeat")
    status, listed = await here.get("/faults")
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


async def test_what_cannot_be_is_refused_with_what_could(world, autojump_clock):
    """404 for a name, 400 for the rest; one line each."""
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
    says = [(await answer.get_json())["message"] for answer in answers]
    assert says[0] == "there is no fault 'rest' Did you mean 'reset'?"
    assert says[1:] == [
        "fault late: found 'x', expected a whole number from 1 to 10000",
        "fault late: there is no product 'NO-USD'",
        "fault late: there is no connection 9",
        "client: found 'x', expected a number",
    ]


async def test_it_is_not_offered_unless_asked_for(world, autojump_clock):
    """The demo market of a daemon listens on a port too."""
    here = world()

    assert (await here.get("/faults"))[0] == 404
    assert (await here.rest().post("/faults/reset")).status_code == 404


async def test_it_works_while_all_of_rest_does_not(world, autojump_clock):
    """Who broke it must be able to say more."""
    here = world(control=True)
    here.faults.fire("rest_error", "500x9")
    assert (await here.get("/time"))[0] == 500
    assert (await here.get("/faults"))[0] == 200


async def test_an_auction_is_held_on_request(world, autojump_clock):
    """``auctionfeed`` speaks only while a product is in auction (FEED §5)."""
    here = world(control=True, rate=1)
    client = await here.client("auctionfeed")
    before, _ = await hear_all(client, 3)
    answer = await here.rest().post("/auctions/BTC-USD?seconds=5")
    during, _ = await hear_all(client, 4)
    _, book = await here.get("/products/BTC-USD/book")
    after, _ = await hear_all(client, 10)
    wrong = [
        (await here.rest().post(path)).status_code
        for path in ("/auctions/NO-USD", "/auctions/BTC-USD?seconds=x")
    ]

    assert answer.status_code == 200
    assert of_type(before, "auction") == []
    assert 3 <= len(of_type(during, "auction")) <= 5
    assert len(of_type(after, "auction")) <= 2
    assert book["auction_mode"]
    assert not (await here.get("/products/BTC-USD/book"))[1]["auction_mode"]
    assert wrong == [404, 400]
