"""Faults: the simulated exchange misbehaves, on request and only then.

``Faults.fire`` arms one; ``kinds.KINDS`` is the list. Each is a small object of its own:
``lines`` and ``spoils`` see every message that goes out, ``ends`` does things to the
connection, ``doors`` is asked about handshakes, subscribes and REST. The exchange itself
knows none of them; it asks ``Faults`` at each of those places.

Nobody who only wants a market pays for this: with nothing armed it is one look at an empty
list per message. No configuration of the daemon leads here; ``hedgehogd simulate`` does.
"""

from hedgehogd.simulator.faults.board import Faults
from hedgehogd.simulator.faults.kinds import KINDS, fault_list, read_param
from hedgehogd.simulator.faults.lines import Outgoing
from hedgehogd.simulator.faults.orders import FaultError

__all__ = ["KINDS", "FaultError", "Faults", "Outgoing", "fault_list", "read_param"]
