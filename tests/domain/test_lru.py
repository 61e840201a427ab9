"""The cache keeps its bounds, and evicts the least recently used entries."""

from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.domain.lru import Lru


def keys(cache):
    return [key for key, _ in cache.items()]


def test_an_entry_is_found_until_it_is_removed():
    cache = Lru()
    cache.put("a", 1, 5)

    assert (cache.get("a"), cache.get("b")) == (1, None)
    assert (len(cache), cache.weight) == (1, 5)
    assert (cache.pop("a"), cache.pop("a")) == (1, None)
    assert (len(cache), cache.weight) == (0, 0)


def test_the_least_recently_used_entry_is_evicted():
    """A get is a use; an iteration is none."""
    cache = Lru(entries_max=2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    assert list(cache.items()) == [("b", 2), ("a", 1)]

    cache.put("c", 3)
    assert list(cache.items()) == [("a", 1), ("c", 3)]


def test_the_weight_is_bounded_and_several_entries_may_make_room():
    cache = Lru(weight_max=10)
    for key, weight in (("a", 3), ("b", 3), ("c", 4)):
        cache.put(key, key.upper(), weight)

    cache.put("d", "D", 5)
    assert (keys(cache), cache.weight) == (["c", "d"], 9)


def test_the_newest_entry_stays_even_if_it_is_too_heavy():
    """Otherwise its owner would have to read it again at once."""
    cache = Lru(weight_max=10)
    cache.put("a", 1, 1)

    cache.put("b", 2, 11)
    assert (keys(cache), cache.weight) == (["b"], 11)


def test_a_replaced_entry_has_its_new_weight_and_is_not_evicted():
    cache = Lru(entries_max=2)
    cache.put("a", 1, 4)
    cache.put("b", 2, 4)

    cache.put("a", 3, 1)
    assert (list(cache.items()), cache.weight) == ([("b", 2), ("a", 3)], 5)


def test_a_cleared_cache_is_empty():
    cache = Lru()
    cache.put("a", 1, 4)
    cache.clear()

    assert (len(cache), cache.weight, keys(cache)) == (0, 0, [])


@given(
    st.integers(1, 4),
    st.integers(0, 12),
    st.lists(st.tuples(st.sampled_from(["get", "put", "pop"]), st.sampled_from("abcdef"),
                       st.integers(0, 6)), max_size=60),
)  # fmt: skip
def test_any_sequence_of_operations_equals_the_model(entries_max, weight_max, operations):
    """The model is a list in the order of use."""
    cache, model = Lru(entries_max, weight_max), []
    for number, (name, key, weight) in enumerate(operations):
        entry = next((each for each in model if each[0] == key), None)
        if entry is not None:
            model.remove(entry)
        if name == "put":
            model.append((key, number, weight))
            while len(model) > 1 and (
                len(model) > entries_max or sum(each[2] for each in model) > weight_max
            ):
                model.pop(0)
            cache.put(key, number, weight)
        elif name == "get":
            if entry is not None:
                model.append(entry)
            assert cache.get(key) == (entry and entry[1])
        else:
            assert cache.pop(key) == (entry and entry[1])
        assert list(cache.items()) == [each[:2] for each in model]
        assert (len(cache), cache.weight) == (len(model), sum(each[2] for each in model))
