"""Faults: the simulated exchange misbehaves, but only on request.

``Faults.fire`` arms a fault; ``kinds.KINDS`` lists them. Each fault is a small object: those of
``lines`` and ``spoils`` see every outgoing message, those of ``ends`` act on the connection,
those of ``doors`` apply to handshakes, subscribes and REST requests. The exchange knows none of
them; it calls ``Faults`` at each of those points.

Without faults the cost is one check of an empty list per message. No configuration of the daemon
enables faults; ``hedgehogd simulate`` does.
"""

from hedgehogd.simulator.faults.board import Faults
from hedgehogd.simulator.faults.kinds import KINDS, fault_list, read_param
from hedgehogd.simulator.faults.lines import Outgoing
from hedgehogd.simulator.faults.orders import FaultError

__all__ = ["KINDS", "FaultError", "Faults", "Outgoing", "fault_list", "read_param"]
