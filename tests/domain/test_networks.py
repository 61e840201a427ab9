"""IP networks, read from text."""

from ipaddress import ip_network

import pytest

from hedgehogd.domain.networks import read_networks


def test_an_address_is_the_network_of_itself():
    """Host bits of a network are ignored."""
    expected = (ip_network("127.0.0.1/32"), ip_network("10.0.0.0/8"), ip_network("::1/128"))

    assert read_networks(["127.0.0.1", "10.1.2.3/8", "::1"]) == expected


@pytest.mark.parametrize("text", ["proxy", "10.0.0.0/33", "", "10.0.0.1,10.0.0.2"])
def test_a_text_that_is_not_a_network_is_refused(text):
    """At start, not when the first subscriber connects."""
    with pytest.raises(ValueError, match=r"address|network|does not appear"):
        read_networks([text])
