"""Entries: unpacking returns the packed records; other bytes raise one named error."""

import secrets
from contextlib import suppress
from random import Random

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hedgehogd.domain.channel import BY_TOPIC_CHANNEL, Topic
from hedgehogd.domain.message import Message, intern_topic
from hedgehogd.domain.record import FeedRecord, GapKind, GapRecord, RefusalRecord, TradeRecord
from hedgehogd.protocol import entry as entry_module
from hedgehogd.protocol.entry import BadEntry, pack, unpack, unpack_some
from hedgehogd.protocol.frames import encode_text

texts = st.text(max_size=20)
natural = st.integers(0, 2**53)
numbers = st.none() | natural
topics = st.builds(
    intern_topic, st.sampled_from(sorted(BY_TOPIC_CHANNEL)), st.sampled_from(["", "BTC-USD", "é"])
) | st.builds(intern_topic, texts, texts)
payloads = st.binary(max_size=200) | st.sampled_from(
    [b"", b"x" * 125, b"x" * 126, b"x" * 65535, b"x" * 65536]
)
PLACED = {"id": st.integers(0, 2**62), "received_us": st.integers(-(2**61), 2**61)}


@st.composite
def messages(draw):
    """Return a message as the feed makes it."""
    topic = draw(topics)
    kind = draw(st.sampled_from(["match", "ticker", "l2update", ""]) | texts)
    payload = draw(payloads)
    places = {name: draw(each) for name, each in PLACED.items()}
    return Message(
        topic, kind, encode_text(payload), payload, draw(numbers), draw(numbers),
        draw(st.none() | topics), **places,
    )  # fmt: skip


others = (
    st.builds(GapRecord, topics, st.sampled_from(GapKind), numbers, numbers, **PLACED)
    | st.builds(TradeRecord, topics, natural, payloads, natural, **PLACED)
    | st.builds(RefusalRecord, topics, texts, texts, natural, **PLACED)
    | st.builds(FeedRecord, texts, texts, st.lists(texts, max_size=3).map(tuple), **PLACED)
)
PAYLOAD = b'{"type":"match","product_id":"BTC-USD"}'
MATCH = Message(
    Topic("full", "BTC-USD"), "match", encode_text(PAYLOAD), PAYLOAD, 7, 3,
    Topic("matches", "BTC-USD"), received_us=1_700_000_000_000_000, id=1_700_000_000_000_001,
)  # fmt: skip
GAP = GapRecord(Topic("matches", "BTC-USD"), GapKind.MISSING, 1, 2, 5, 6)
MIXED = [MATCH, GAP, TradeRecord(GAP.topic, 1, b"{}", 5, 7, 8), FeedRecord("live", id=9)]


def placed(message, record_id, received_us):
    return msgspec.structs.replace(message, id=record_id, received_us=received_us)


@pytest.mark.parametrize("sizes", [(200, 300), (10, 20), (126, 125, 65_536), (70_000,)])
def test_payloads_of_every_length_of_frame_are_unpacked(sizes):
    """The header of a frame has 2, 4 or 10 bytes."""
    batch = []
    for number, size in enumerate(sizes, 1):
        payload = b"x" * size
        batch.append(Message(GAP.topic, "match", encode_text(payload), payload, id=number))

    assert batch == unpack(pack(batch))


@given(st.lists(messages(), min_size=1, max_size=12))
@example([placed(MATCH, 5, 1), placed(MATCH, 6, 1), placed(MATCH, 7, 1)])
@example([placed(MATCH, 5, 9), placed(MATCH, 7, 1), placed(MATCH, 7, 1)])
@example([placed(MATCH, 5, 1), placed(MATCH, 9, 1), placed(MATCH, 7, 2)])
def test_unpacked_messages_are_the_packed_ones(batch):
    """The usual batch: bytes, numbers, topics, ids and times of each message."""
    assert batch == unpack(pack(batch))


@given(st.lists(messages() | others, min_size=1, max_size=12))
def test_unpacked_records_are_the_packed_ones(batch):
    """Records of all kinds share entries."""
    assert batch == unpack(pack(batch))


@given(st.lists(messages() | others, min_size=1, max_size=5), st.binary(max_size=9), st.binary())
def test_an_entry_is_read_inside_other_bytes(batch, before, after):
    """A reader unpacks each entry where it lies in one read of the file."""
    data = pack(batch)

    assert batch == unpack(before + data + after, len(before), len(before) + len(data))


def some_of(data, *wanted):
    """Return the records of an entry that are found if some topics are wanted."""
    return unpack_some(data, 0, len(data), frozenset(wanted).__contains__, set())


@given(st.lists(messages() | others, min_size=1, max_size=12), st.sets(topics, max_size=3))
def test_some_records_are_those_of_wanted_topics(batch, wanted):
    """Of either topic of a message; records that are not messages are few, and always found."""
    expected = [
        each
        for each in batch
        if not isinstance(each, Message) or each.topic in wanted or each.also in wanted
    ]

    assert expected == some_of(pack(batch), *wanted)


def test_an_entry_without_wanted_topics_is_passed(monkeypatch):
    """Most entries of a window are: one look in the table of routes is enough."""
    other = msgspec.structs.replace(MATCH, topic=Topic("ticker", "BTC-USD"), also=None)
    first, second = pack([MATCH, other]), pack([other, MATCH])
    asked, unwanted = [], set()

    def is_wanted(topic):
        asked.append(topic)
        return False

    assert [] == unpack_some(first, 0, len(first), is_wanted, unwanted)
    assert [MATCH.topic, MATCH.also, other.topic] == asked
    new = pack([other, GAP])
    assert [GAP] == unpack_some(new, 0, len(new), is_wanted, unwanted)
    assert 3 == len(asked)
    monkeypatch.setattr(entry_module, "_columns", None)
    assert [] == unpack_some(second, 0, len(second), is_wanted, unwanted)
    assert 3 == len(asked)


def test_topics_are_shared_objects():
    """The hub looks topics up for each message; an equal but new object costs a comparison."""
    (found,) = unpack(pack([MATCH]))

    assert found.topic is intern_topic("full", "BTC-USD")
    assert found.also is intern_topic("matches", "BTC-USD")


@pytest.mark.parametrize(
    ("topic", "kind", "also"),
    [
        (Topic("full", "BTC-USD"), "match", Topic("matches", "BTC-USD")),
        (Topic("full", "BTC-USD"), "match", None),  # ``matches`` has it already
        (Topic("level2_batch", "BTC-USD"), "l2update", Topic("level2", "BTC-USD")),
        (Topic("level2", "BTC-USD"), "snapshot", Topic("level2_batch", "BTC-USD")),
        (Topic("rfq_matches", "BTC-USD"), "rfq_match", Topic("rfq_matches", "")),
    ],
)
def test_the_second_topic_is_the_feeds(topic, kind, also):
    """Topic and type do not decide it: a trade that ``matches`` has already is none of it."""
    message = msgspec.structs.replace(MATCH, topic=topic, type=kind, also=also)

    assert [message] == unpack(pack([message]))


def test_wire_forms_are_not_stored():
    """Each instance makes the forms that its own subscribers need."""
    formed = msgspec.structs.replace(MATCH, line=b"x\n", event=b"data: x", deflated=b"y")

    assert [MATCH] == unpack(pack([formed]))


@pytest.mark.parametrize("batch", [[], [msgspec.structs.replace(MATCH, frame=b"x" * 1000)]])
def test_an_empty_and_a_huge_batch_are_refused(batch, monkeypatch):
    """An entry without records has no id; a huge one could not be read at once."""
    monkeypatch.setattr(entry_module, "ENTRY_BYTES_MAX", 1000)
    with pytest.raises(ValueError, match="entry"):
        pack(batch)


def test_caches_of_routes_are_bounded(monkeypatch):
    """A feed may invent message types for ever."""
    monkeypatch.setattr(entry_module, "TOPICS_MAX", 3)
    encoded, decoded = entry_module._EncodedRoutes(), entry_module._DecodedRoutes()
    monkeypatch.setattr(entry_module, "_encoded_routes", encoded)
    monkeypatch.setattr(entry_module, "_decoded_routes", decoded)
    batch = [msgspec.structs.replace(MATCH, type=str(n), also=None) for n in range(10)]

    assert batch == unpack(pack(batch))
    assert len(encoded) <= 3
    assert len(decoded) <= 3


def columns(**changes):
    """Return an entry of one message of 5 bytes, with some columns changed."""
    route = msgspec.msgpack.encode((0, "ticker", "BTC-USD", "ticker", None))
    values = {
        "first_id": 1, "id_steps": [], "first_us": 1, "us_steps": [], "table": [route],
        "routes": [0], "sequences": [None], "trade_ids": [None], "sizes": [5],
    } | changes  # fmt: skip
    data = msgspec.msgpack.encode(list(values.values()))
    return b"\x01" + len(data).to_bytes(4, "little") + data + b"\x81\x03abc"


def route(*values):
    return [msgspec.msgpack.encode(values)]


def test_the_entry_of_the_next_test_is_sound():
    """Otherwise each change below could fail for another reason."""
    (message,) = unpack(columns())

    assert (b"\x81\x03abc", b"abc") == (message.frame, message.payload)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "too short"),
        (b"\x01\0\0\0", "too short"),
        (b"\x02" + columns()[1:], "format 2"),
        (b"\x01\xff\xff\xff\xff" + columns()[5:], "beyond"),
        (columns() + b"x", "do not fit"),
        (columns()[:-1], "do not fit"),
        (columns(routes=[]), "do not fit"),
        (columns(sequences=[None, 1]), "do not fit"),
        (columns(trade_ids=[]), "do not fit"),
        (columns(id_steps=[1]), "do not fit"),
        (columns(us_steps=[1, 2]), "do not fit"),
        (columns(routes=[], sequences=[], trade_ids=[], sizes=[]), "do not fit"),
        (columns(sizes=[-5]), "unreadable columns"),
        (columns(routes=[-1]), "unreadable columns"),
        (columns(first_id="x"), "unreadable columns"),
        (columns(table=[]), "does not exist"),
        (columns(routes=[1]), "does not exist"),
        (columns(table=[b"x"]), "unreadable route"),
        (columns(table=route(0, "ticker", "BTC-USD")), "unreadable route"),
        (columns(table=route(9, "ticker", "BTC-USD", "", None)), "unknown kind 9"),
        (columns(table=route(-1, "ticker", "BTC-USD", "", None)), "unknown kind -1"),
        (columns(table=route(1, "ticker", "BTC-USD", "", None)), "unreadable record"),
        (columns(table=route(2, "matches", "BTC-USD", "", None)), "without a trade id"),
    ],
)
def test_other_bytes_are_no_entry(data, reason):
    """The reader of a damaged window has one error to handle, and a text for the operator."""
    with pytest.raises(BadEntry, match=reason):
        unpack(data)
    with pytest.raises(BadEntry, match=reason):
        some_of(data, Topic("ticker", "BTC-USD"))


@pytest.mark.parametrize(("start", "end"), [(-1, None), (3, 2), (0, 10_000), (10_000, None)])
def test_places_outside_of_the_data_are_no_entry(start, end):
    """A damaged length must not read other bytes."""
    with pytest.raises(BadEntry, match="too short"):
        unpack(columns(), start, end)


def test_damage_raises_nothing_else():
    """Each entry has a CRC; damage that passes it must not end the process all the same."""
    seed = secrets.randbits(31)
    print(f"seed {seed}")  # noqa: T201  # pytest shows it when it fails
    chance = Random(seed)
    bad = 0
    for _ in range(5_000):
        data = bytearray(pack(MIXED if chance.random() < 0.5 else [MATCH] * 3))
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.2:
            del data[chance.randrange(len(data)) :]
        try:
            found = unpack(bytes(data))
        except BadEntry:
            bad += 1
        else:
            assert found
        with suppress(BadEntry):
            some_of(bytes(data), MATCH.topic)

    assert bad > 1_000


@given(st.binary(max_size=300))
def test_noise_raises_nothing_else(noise):
    """The first byte is a version, so noise usually ends there; with it, further on."""
    for data in (noise, b"\x01" + noise, b"\x01\x00\x00\x00\x00" + noise):
        with pytest.raises(BadEntry):
            unpack(data)
        with pytest.raises(BadEntry):
            some_of(data, MATCH.topic)
