"""One request serves all callers; the rate is limited, and so is every wait."""

from random import Random

import httpx
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hedgehogd.domain import limits
from hedgehogd.feeds.rest_cache import Answer
from hedgehogd.feeds.rest_client import RestClient
from hedgehogd.simulator.market import Market
from hedgehogd.simulator.products import products_for
from hedgehogd.simulator.rest import market_app
from tests.feeds.upstream import Upstream, reply, rest_client


def for_a_second(answer):
    return 1.0


@pytest.fixture
def upstream():
    return Upstream()


@pytest.fixture
async def rest(nursery, upstream):
    client = rest_client(upstream)
    await nursery.start(client.run)
    return client


@pytest.fixture
def ask(nursery, rest):
    """Start a caller; return the list that its answer will be appended to."""

    def ask(path="/products", query=(), keeping=for_a_second, scope=None):
        got = []

        async def caller():
            with scope or trio.CancelScope():
                got.append(await rest.get(path, query, keeping=keeping))

        nursery.start_soon(caller)
        return got

    return ask


async def test_a_hundred_callers_are_one_request(autojump_clock, ask, upstream, rest):
    """The exchange must not get one request per caller."""
    upstream.gate = trio.Event()
    callers = [ask(query=(("a", "1"), ("b", "2"))) for _ in range(50)]
    callers += [ask(query=(("b", "2"), ("a", "1"))) for _ in range(50)]
    await wait_all_tasks_blocked()
    upstream.gate.set()
    await wait_all_tasks_blocked()

    assert upstream.asked == ["/products?a=1&b=2"]
    assert {got[0].status for got in callers} == {200}
    assert (rest.requests, rest.coalesced, rest.cache_hits) == (1, 99, 0)


async def test_an_answer_is_cached_for_its_time(autojump_clock, rest, upstream):
    """It serves no longer: a price of two seconds ago is wrong."""
    for pause in (0, 0.9, 0.2):
        await trio.sleep(pause)
        await rest.get("/products", keeping=for_a_second)

    assert [at for at, _ in upstream.seen] == [0, pytest.approx(1.1)]
    assert rest.cache_hits == 1


async def test_the_answer_decides_how_long_it_is_cached(autojump_clock, rest, upstream):
    """An old page of trades cannot change; a new one does."""
    await rest.get("/products", keeping=lambda answer: len(answer.body))
    await trio.sleep(10)
    await rest.get("/products", keeping=for_a_second)

    assert len(upstream.seen) == 1


async def test_a_cancelled_caller_does_not_affect_the_others(autojump_clock, ask, upstream):
    """The request belongs to the client, not to its first caller."""
    upstream.gate = trio.Event()
    leaving = trio.CancelScope()
    first, second = ask(scope=leaving), ask()
    await wait_all_tasks_blocked()
    leaving.cancel()
    await wait_all_tasks_blocked()
    upstream.gate.set()
    await wait_all_tasks_blocked()

    assert (first, second[0].status, len(upstream.seen)) == ([], 200, 1)


async def test_an_answer_is_cached_even_if_all_callers_have_left(
    autojump_clock, ask, rest, upstream
):
    """The request has counted against the limit already."""
    upstream.gate = trio.Event()
    leaving = trio.CancelScope()
    ask(scope=leaving)
    await wait_all_tasks_blocked()
    leaving.cancel()
    upstream.gate.set()
    await wait_all_tasks_blocked()
    await rest.get("/products", keeping=for_a_second)

    assert (len(upstream.seen), rest.cache_hits) == (1, 1)


async def test_a_request_without_callers_is_not_sent(autojump_clock, ask, rest, upstream):
    """Clients that connect and leave must not fill the queue."""
    upstream.gate = trio.Event()
    leaving = [trio.CancelScope() for _ in range(40)]
    for number, scope in enumerate(leaving):
        ask(f"/products/{number}", scope=scope)
    await wait_all_tasks_blocked()
    for scope in leaving:
        scope.cancel()
    await wait_all_tasks_blocked()
    upstream.gate.set()
    await trio.sleep(20)

    assert len(upstream.seen) == limits.REST_IN_FLIGHT_MAX
    assert (await rest.get("/time", keeping=for_a_second)).status == 200


async def test_the_exchanges_limits_are_kept(autojump_clock, ask, upstream):
    """Requests: first a burst, then a fixed rate, and few at the same time."""
    upstream.gate = trio.Event()
    callers = [ask(f"/products/{number}") for number in range(40)]
    await wait_all_tasks_blocked()
    upstream.gate.set()
    await trio.sleep(30)

    assert all(got[0].status == 200 for got in callers)
    assert upstream.most == limits.REST_IN_FLIGHT_MAX
    times = [at for at, _ in upstream.seen]
    for start in times:
        within = sum(start <= at < start + 5 for at in times)
        assert within <= limits.REST_REQUESTS_BURST + 5 * limits.REST_REQUESTS_PER_S
    assert times[-1] == pytest.approx(
        (40 - limits.REST_REQUESTS_BURST) / limits.REST_REQUESTS_PER_S, abs=0.2
    )


async def test_a_caller_with_too_long_a_wait_is_refused_at_once(
    autojump_clock, ask, rest, upstream
):
    """The refusal states when to try again."""
    upstream.gate = trio.Event()
    most = limits.REST_WAITING_MAX + limits.REST_IN_FLIGHT_MAX
    for number in range(most):
        ask(f"/products/{number}")
        await wait_all_tasks_blocked()
    refused = ask("/products/one-more")
    await wait_all_tasks_blocked()

    assert (refused[0].status, refused[0].retry_after_s) == (503, 5.0)
    assert refused[0].message == "too many requests are waiting for the exchange"
    assert rest.refused == 1
    assert ask("/products/7") == []  # it shares the request of another caller
    upstream.gate.set()


async def test_a_429_pauses_all_requests(autojump_clock, ask, rest, upstream):
    """The exchange blocks clients that continue for longer (COINBASE §16.7)."""
    upstream.answer = lambda _: reply({}, 429) if len(upstream.seen) == 1 else reply([])
    first = ask("/products")
    await wait_all_tasks_blocked()
    second = ask("/currencies")
    await wait_all_tasks_blocked()
    assert (first, second, len(upstream.seen)) == ([], [], 1)
    await trio.sleep(5)

    assert (first[0].status, second[0].status) == (200, 200)
    assert upstream.asked == ["/products", "/products", "/currencies"]
    assert limits.REST_PAUSE_MIN_S <= upstream.seen[1][0] <= 2 * limits.REST_PAUSE_MIN_S
    assert rest.errors == {"limited": 1}


async def test_retry_after_is_honoured(autojump_clock, ask, upstream):
    upstream.answer = lambda _: (
        reply({}, 429, Retry_After="7") if len(upstream.seen) == 1 else reply([])
    )
    got = ask()
    await trio.sleep(8)

    assert got[0].status == 200
    assert [at for at, _ in upstream.seen] == [0, 7]


async def test_during_a_long_pause_callers_are_refused_at_once(autojump_clock, ask, rest, upstream):
    """A caller should not wait a minute for a book."""
    upstream.answer = lambda _: reply({}, 429, Retry_After="60")
    got = ask()
    await wait_all_tasks_blocked()
    assert (got[0].status, got[0].retry_after_s) == (503, 60)
    await trio.sleep(10)
    later = await rest.get("/currencies", keeping=for_a_second)

    assert (later.status, later.retry_after_s) == (503, 50)
    assert later.message == "the exchange's rate limit is reached"
    assert len(upstream.seen) == 1


async def test_consecutive_429s_pause_longer_and_end(autojump_clock, ask, upstream):
    """Three tries with growing pauses are no retry storm."""
    upstream.answer = lambda _: reply({}, 429)
    got = ask()
    await trio.sleep(60)

    assert got[0].status == 503
    first, second, third = (at for at, _ in upstream.seen)
    assert 1 <= second - first <= 2 <= third - second <= 4


async def test_429s_of_one_moment_are_one_pause(autojump_clock, ask, upstream):
    """Eight requests in flight get the same 429."""
    upstream.gate = trio.Event()
    upstream.answer = lambda _: reply({}, 429) if trio.current_time() == 0 else reply([])
    callers = [ask(f"/products/{number}") for number in range(8)]
    await wait_all_tasks_blocked()
    upstream.gate.set()
    await trio.sleep(4)

    assert all(got[0].status == 200 for got in callers)
    assert upstream.seen[8][0] <= 2


async def test_a_good_answer_makes_the_next_pause_short_again(autojump_clock, ask, upstream):
    """Two limits an hour apart are not consecutive."""
    upstream.answer = lambda _: reply({}, 429) if len(upstream.seen) % 2 else reply([])
    for _ in range(3):
        ask()
        await trio.sleep(60)
    times = [at for at, _ in upstream.seen]

    assert [1 <= times[i + 1] - times[i] <= 2 for i in (0, 2, 4)] == [True] * 3


async def test_a_repeated_request_keeps_its_place(autojump_clock, ask, upstream):
    """A limited request does not go to the end of the queue."""
    upstream.gate = trio.Event()
    upstream.answer = lambda _: reply({}, 429) if trio.current_time() == 0 else reply([])
    for number in range(limits.REST_IN_FLIGHT_MAX):
        ask(f"/first/{number}")
    await wait_all_tasks_blocked()
    ask("/last")
    await wait_all_tasks_blocked()
    upstream.gate.set()
    await trio.sleep(10)

    assert upstream.asked[-1] == "/last"


async def test_callers_that_leave_during_the_wait_use_up_no_slot(
    autojump_clock, ask, rest, upstream
):
    """Otherwise eight cancelled callers would stop all requests."""
    for number in range(limits.REST_REQUESTS_BURST):
        ask(f"/products/{number}")
    await wait_all_tasks_blocked()
    for number in range(20):
        leaving = trio.CancelScope()
        ask(f"/leaving/{number}", scope=leaving)
        await wait_all_tasks_blocked()
        leaving.cancel()
        await trio.sleep(0.13)  # the debt stays
    await trio.sleep(10)

    assert (await rest.get("/time", keeping=for_a_second)).status == 200
    assert len(upstream.seen) == limits.REST_REQUESTS_BURST + 1


async def test_a_limited_request_without_callers_is_not_repeated(autojump_clock, ask, upstream):
    upstream.gate = trio.Event()
    upstream.answer = lambda _: reply({}, 429)
    leaving = trio.CancelScope()
    ask(scope=leaving)
    await wait_all_tasks_blocked()
    leaving.cancel()
    await wait_all_tasks_blocked()
    upstream.gate.set()
    await trio.sleep(60)

    assert len(upstream.seen) == 1


@pytest.mark.parametrize(
    ("answer", "status"),
    [(lambda: httpx.ConnectError("x"), 502), (lambda: reply({"message": "NotFound"}, 404), 404)],
)
async def test_failures_are_cached_for_a_second(autojump_clock, rest, upstream, answer, status):
    """A failing service must not get a request from each caller in turn."""
    upstream.answer = lambda _: answer()
    for pause in (0, 0.5, 0.6):
        await trio.sleep(pause)
        got = await rest.get("/products", keeping=lambda _: 60.0)
        assert got.status == status

    assert len(upstream.seen) == 2


async def test_backfill_has_lower_priority_but_is_not_starved(
    autojump_clock, nursery, ask, rest, upstream
):
    """Callers wait for answers, gaps can wait for minutes; but a busy relay fills gaps too."""
    upstream.gate = trio.Event()
    for number in range(limits.REST_IN_FLIGHT_MAX):
        ask(f"/first/{number}")
    await wait_all_tasks_blocked()
    nursery.start_soon(rest.get_later, "/later")
    await wait_all_tasks_blocked()
    for number in range(20):
        ask(f"/asker/{number}")
    await wait_all_tasks_blocked()
    upstream.gate.set()
    await trio.sleep(10)

    place = upstream.asked.index("/later")
    assert 0 < place - limits.REST_IN_FLIGHT_MAX <= limits.REST_ASKERS_IN_A_ROW_MAX
    assert len(upstream.asked) == limits.REST_IN_FLIGHT_MAX + 21


async def test_backfill_gets_new_answers(autojump_clock, rest, upstream):
    """An earlier answer may be stale."""
    for _ in range(3):
        await rest.get_later("/products")
        await rest.get("/products", keeping=for_a_second)

    assert len(upstream.seen) == 4


async def test_backfill_is_bounded_too(autojump_clock, nursery, rest, upstream):
    upstream.gate = trio.Event()
    for _ in range(limits.REST_WAITING_MAX + limits.REST_IN_FLIGHT_MAX):
        nursery.start_soon(rest.get_later, "/later")
        await wait_all_tasks_blocked()
    assert (await rest.get_later("/later")).status == 503
    upstream.gate.set()


async def test_callers_that_wait_at_the_end_are_refused(autojump_clock, upstream):
    """A drain leaves no caller waiting."""
    client = rest_client(upstream)
    upstream.gate = trio.Event()
    got = []

    async def caller(path):
        got.append(await client.get(path, keeping=for_a_second))

    async with trio.open_nursery() as outer, trio.open_nursery() as inner:
        await inner.start(client.run)
        for number in range(20):
            outer.start_soon(caller, f"/products/{number}")
        await wait_all_tasks_blocked()
        inner.cancel_scope.cancel()
    late = await client.get("/products", keeping=for_a_second)

    assert [answer.status for answer in [*got, late]] == [503] * 21
    assert late.message == "the exchange's REST service cannot be used now"


@pytest.mark.random
async def test_random_callers_never_hang_nor_exceed_the_limits(autojump_clock, upstream):
    """Callers come, leave and repeat; the service fails; every caller that stays gets an answer."""
    dice = Random(7)
    kinds = (
        lambda: reply([]), lambda: reply([]), lambda: reply({}, 429), lambda: reply({}, 500),
        lambda: httpx.ReadTimeout(""),
    )  # fmt: skip
    upstream.answer = lambda _: dice.choice(kinds)()
    client = rest_client(upstream)
    statuses = []

    async def caller():
        await trio.sleep(dice.uniform(0, 60))
        with trio.move_on_after(dice.choice((0.01, 1, 1000))):
            path = f"/products/{dice.randrange(40)}"
            later = dice.random() < 0.1
            get = client.get_later(path) if later else client.get(path, keeping=for_a_second)
            statuses.append((await get).status)

    async with trio.open_nursery() as outer:
        await outer.start(client.run)
        async with trio.open_nursery() as callers:
            for _ in range(1500):
                callers.start_soon(caller)
        outer.cancel_scope.cancel()

    assert {200, 502} < set(statuses) <= {200, 502, 503, 504}
    assert not client._fetches
    assert client._slots.value == limits.REST_IN_FLIGHT_MAX
    times = [at for at, _ in upstream.seen]
    for index, start in enumerate(times):
        after = times[index:]
        assert sum(at < start + 10 for at in after) <= 12 + 80 + 1


async def test_the_client_reads_the_simulated_exchange(autojump_clock, nursery):
    """Real answers: a page of trades with its cursors, a 404, a 400."""
    market = Market(1, 10**18, products_for(()), 1.0)
    app = market_app(market)
    transport = httpx.ASGITransport(app)
    client = RestClient("http://exchange.test", Random(1), transport=transport)
    await nursery.start(client.run)
    page = await client.get("/products/BTC-USD/trades", (("limit", "3"),), keeping=for_a_second)
    unknown = await client.get("/products/NO-USD/book", keeping=for_a_second)
    bad = await client.get("/products/BTC-USD/book", (("level", "9"),), keeping=for_a_second)

    assert page.status == 200
    assert int(page.before) >= int(page.after) > 0
    assert unknown == Answer(404, b'{"message":"NotFound"}')
    assert bad == Answer(400, b'{"message":"unexpected level: _"}')
