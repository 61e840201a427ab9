"""The limits of the house: a name with its unit, a value, and why it is that.

Invariant 4: what has no limit must not exist; a few that concern one module alone stand
in that module. Those that an operator may want to change are configuration keys of the same
name; these are their defaults.
"""

# Request heads. 16 KiB is what h11, Node and Hypercorn allow.
HEAD_BYTES_MAX = 16 * 1024
# A head that takes longer than this is an attack or a dead link.
HEAD_TIMEOUT_S = 10.0
# And up to this much longer, at random: a thousand that came at once are not ended in one turn.
HEAD_TIMEOUT_SPREAD_S = 2.0
# Connections whose request head is not complete, or whose refusal is being sent. A newcomer to
# a full room gets the place of one that waits (streaming/admission.py).
VISITORS_MAX = 1024
# Control requests being answered, ten times what quick clients have open at 1,000 a second.
# Apart from VISITORS_MAX, so that they never take the room of heads.
CONTROL_REQUESTS_MAX = 256
# Those of one address that is limited: more than a page with all its charts asks for at once.
CONTROL_REQUESTS_PER_ADDRESS_MAX = 32
# A control request that made no progress for this long gives up its place in a full room, also
# when its address holds no more than others: ordinary ones are answered in a few ms.
CONTROL_GRACE_S = 0.1
# Control requests that an address with limits starts at once: a browser opens six connections.
CONTROL_STARTS_BURST = 8
# ... and a second after that, as many as it may open connections. One start takes 2 ms of the loop,
# so that the 32 places of an attacker, which become free together, are not filled in one turn.
# Each CONTROL_STARTS_BURST places that the address holds make a start cost one more: 20 a second
# with all places held, because requests that stay wait for their peer and are no quick client's.
CONTROL_STARTS_PER_S = 100.0
# How long a control request of such an address waits for its start, and a new stream for the turn
# of the topics that its URL names; a longer queue is a 503.
CONTROL_WAIT_MAX_S = 5.0
# How often a second a request gives up its place although the shares get no fairer: a flood that
# replaced its own requests at 1,000 a second took the whole core, at 2 to 15 ms each.
CONTROL_EXCHANGES_PER_S = 20.0
# A reader of a control answer that takes nothing for this long is gone. The kernel reports room
# in steps of 48 KiB (measured), so a reader of 10 KiB/s is served to its end.
ANSWER_STALL_S = 5.0
# Connections of one address (IPv6: of one /64), streams included: a tenth of an instance. An
# office of bots has some hundreds.
ADDRESS_CONNECTIONS_MAX = 1_000
# New connections of it a second, and at once those of this many seconds: all that it may hold
# may come again after a restart.
ADDRESS_CONNECTIONS_PER_S = 100.0
ADDRESS_BURST_S = 10.0
# Addresses without a connection whose rate is remembered: 5 MB. Each has a full burst after
# ADDRESS_BURST_S anyway.
ADDRESSES_REMEMBERED_MAX = 16_384
# A body for REST control is a list of channels; Quart refuses more with 413.
BODY_BYTES_MAX = 64 * 1024

# What a client may say in one message: 838 products in one subscribe are 10 KB.
CLIENT_MESSAGE_BYTES_MAX = 64 * 1024
# Client commands answered per connection: burst, then a steady rate. Pings do not count.
CLIENT_COMMANDS_BURST = 100
CLIENT_COMMANDS_PER_S = 10.0
# Coinbase closes a connection that has not subscribed within this time (FEED §3.1).
FIRST_SUBSCRIBE_S = 5.0
# Subscribers whose commands are carried out in one turn of the loop: 50 µs each.
COMMANDS_PER_TURN_MAX = 32
# Topics that an address may change at once, by one command or several: more than every public
# channel of 838 products (TOPICS_PER_SUBSCRIBER_MAX); then a rate. Forty addresses at this rate
# are as much as all large commands together get.
COMMAND_TOPICS_BURST = 10_000
ADDRESS_TOPICS_PER_S = 250.0
# Topics a second that all large commands together change: a tenth of the loop's time.
COMMAND_TOPICS_PER_S = 10_000.0
# A command of so few topics is small: it takes half a millisecond at most.
COMMAND_TOPICS_SMALL_MAX = 100
# Addresses whose allowance is remembered; one that is forgotten has all of it again.
ALLOWANCES_MAX = 10_000
# Queries of history of one address that wait for their turn, each with a page in memory.
HISTORY_WAITING_MAX = 16
# Topics one subscriber may hold: every public channel of 838 products, with room.
TOPICS_PER_SUBSCRIBER_MAX = 10_000
# Subscribers of one instance. 10,000 use half of the usual limit of open files.
SUBSCRIBERS_MAX = 10_000
# Open files beside the subscribers': a crowd of visitors must not exhaust them, and 220 are for
# listeners, feeds, history and other instances.
SPARE_FILES_MIN = VISITORS_MAX + CONTROL_REQUESTS_MAX + 220

# What may wait for one slow subscriber: bytes (a level2 snapshot and a busy minute) ...
BACKLOG_BYTES_MAX = 4 * 1024 * 1024
# ... and age: a price of ten seconds ago is worth nothing.
BACKLOG_AGE_MAX_S = 10.0
# ... and all subscribers of an instance together: what waits for them, as much memory as it takes.
# 32 subscribers at their own bound; a stall of a whole network fits, since cohorts share bytes.
WAITING_BYTES_MAX = 128 * 1024 * 1024
# Memory that was freed before the allocator is asked to return it to the system: a few ms each.
TRIM_BYTES_MIN = 16 * 1024 * 1024
# How long a subscriber that has been told goodbye may take to hang up.
FAREWELL_S = 2.0
# How long its goodbye may wait behind what the kernel holds already: a reader of 13 KB/s
# gets to it in time, one that does not read at all is cut.
GOODBYE_WRITTEN_S = 10.0
# The kernel's send buffer per subscriber (doubled by Linux): slowness must show early, and a
# goodbye must not stand behind much; 1 MB/s over 100 ms still fits.
SEND_BUFFER_BYTES = 64 * 1024
# Acks, errors, pongs waiting for a subscriber that does not read.
CONTROL_BYTES_MAX = 256 * 1024

# Signs of life on quiet streams: below the shortest common proxy timeout (30 s).
KEEP_ALIVE_S = 15.0
# How long a new stream whose client has ended its own side still waits for its turn: most such
# clients have left, and those within their address's allowance have their turn at once.
HALF_CLOSED_WAIT_S = 1.0
# Pauses after which a subscriber that has ended its own side is sent something, to learn
# whether it still reads: the round trips of a machine, a continent and a bad line.
HALF_CLOSED_PROBES_S = (0.3, 1.0, 3.0)
# A WebSocket peer that says nothing at all, pongs included, for this long is gone.
PEER_SILENCE_MAX_S = 60.0

# Time between two readings of the loop's clock, beyond an announced sleep, that still counts as
# time in which the process ran. The rest of a longer pause (SIGSTOP) ends no peer's patience.
PAUSE_MIN_S = 1.0

# Batches between feed and broker; about 1 s of the busiest second recorded (632 messages).
INBOX_BATCHES_MAX = 256
# Messages gathered for one write: deliveries that came meanwhile are taken together up to
# here, 30 to 90 KB, far below what may wait for a subscriber.
MESSAGES_PER_WRITE_MAX = 256
# New objects between two looks of Python's cycle collector: what 300 connections make.
GC_NEW_OBJECTS_MAX = 20_000
# Writes in one turn of the loop before others get theirs: about 2 ms. A control request takes
# some 40 turns, so a subscriber's request waits for as many of them.
WRITES_PER_TURN_MAX = 256
# Messages formed for cohorts in one turn: with a resume position, and kept by a subscriber that
# does not read, each costs as much as ten writes.
FORMED_PER_TURN_MAX = 25
# How long a thread that reads or writes history runs before the loop's thread runs again.
THREAD_TURN_S = 0.0005
# The tape: recent messages in memory; two minutes of the busiest second recorded.
TAPE_BYTES_MAX = 64 * 1024 * 1024
# Topics remembered at once: interned, watched for gaps, with a position after their
# messages have left the tape. Every public channel of 838 products, four times over.
TOPICS_MAX = 20_000
# A sequence or trade id: what every JSON reader holds exactly. Coinbase's are below it (FEED §6).
SEQUENCE_MAX = 2**53 - 1

# A step in a product's trade ids that can be true: BTC-USD trades up to half a million times
# a day, so an outage of two days is told as a gap. What is further away is an id set back,
# or a mistake.
TRADE_ID_STEP_MAX = 1_000_000
# The same for sequences: BTC-USD has up to 1,000 engine events a second (FEED §7).
SEQUENCE_STEP_MAX = 200_000_000
# Numbers that cannot be true, in a row that rises by one: so many are no mistake, the
# exchange counts anew. Each of them below the newest is taken for a repeat until then.
ODD_NUMBERS_MAX = 10
# Numbers a little below the mark are a server that lags; when no others arrive for this long
# and they are no older than the mark, the exchange set them back. Half of STALE_AFTER_S: a
# market whose numbers were set back flows again before it would be reported as stale.
SET_BACK_AFTER_S = 5.0
# How long the messages behind a hole wait for the other line to fill it (DESIGN §5).
GAP_PATIENCE_S = 0.05
# Messages of one product that may wait behind a hole: a second of the busiest full feed.
WAITING_MESSAGES_MAX = 1_000
# A line that leads a product and says nothing of it for this long, three heartbeats, while
# the other line speaks, leads it no longer.
LEADER_SILENCE_S = 3.5
# A product that has heartbeats and then says nothing for this long was interrupted: what its
# book has missed nobody knows.
PRODUCT_SILENCE_S = 3.5
# An old variant of a product is kept this long after the new one has begun to flow.
HANDOVER_S = 1.0
# Connections of one line that full and level3 are spread over; light channels have one.
HEAVY_CONNECTIONS_MAX = 8
# Moves of a product from a connection on which it does not flow to another.
MOVES_MAX = 3
# More subscribes to a topic that do not help before its product is moved.
RENEWALS_BEFORE_MOVE_MAX = 2
# A key that the exchange did not believe is tried again after this long: its clock or ours may
# have been wrong, or it was in trouble.
KEY_AGAIN_S = 60.0
# A channel that the exchange refused is asked for again after this long: refusals are lifted.
# Each try may cost a dial, and those who ask meanwhile are refused at once.
REFUSED_AGAIN_S = 600.0
# Dials a second and at once, below what the exchange allows (8 and 20, FEED §10).
DIALS_PER_S = 4.0
DIALS_BURST = 8
# The shortest pause after HTTP 429: eager clients have been locked out for minutes (PAIN §7).
RATE_LIMITED_PAUSE_S = 10.0
# Pauses between two more subscribes to one topic, because its acknowledgement leaves it out,
# its product has fallen silent, or its book is wrong: the first and the longest. After the
# longest without another they begin anew.
RENEW_FIRST_S = 5.0
RENEW_MAX_S = 60.0
# A new snapshot that did not help is asked for again, for the same reason, after this long: what
# cannot be read today is a new format, and each snapshot goes to every subscriber of the book.
RESYNC_AGAIN_S = 3600.0
# A book that was readable and not crossed for so long after a snapshot was repaired by it: the next
# fault is a new one and asks again. Twice RENEW_MAX_S: a snapshot that was asked for has arrived
# within half of it. Of a book that crosses in turns, each subscriber gets at most one in this time.
RESYNC_REPAIRED_S = 120.0
# Log lines about such books; the counters go on.
RESYNCS_LOGGED_MAX = 50
# An auction reports itself once a second (FEED §6.14); without a report it is over by then.
AUCTION_SILENCE_S = 60.0
# Messages of the tape that an answer about recent trades looks through: 2 ms in one turn.
MEMORY_SCAN_MESSAGES_MAX = 20_000
# Upstream lines: each is a whole feed of its own.
LINES_MAX = 2

# One upstream message; BTC-USD snapshots are 1 to 5 MB (FEED §2).
UPSTREAM_MESSAGE_BYTES_MAX = 16 * 1024 * 1024
# One read from the upstream socket.
UPSTREAM_READ_BYTES = 64 * 1024
# No byte for this long means the upstream line is dead, whatever TCP says.
STALE_AFTER_S = 10.0
# From the name look-up to the end of the WebSocket handshake.
DIAL_TIMEOUT_S = 15.0
# A dial that fails as the one before is logged at most this often: an outage is one fault.
DIAL_LOGGED_S = 300.0
# Pauses between dials: first and longest, before jitter.
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
# A connection that lived this long was a good one: the next pause is the first again.
BACKOFF_RESET_S = 30.0
# Upstream subscriptions outlive their last subscriber this long, for reconnecting clients.
LINGER_S = 30.0
# Demand is collected this long before it is sent: a thousand joiners, one message.
SUBSCRIBE_COLLECT_S = 0.02
# Products in one subscribe message; keeps a request near 5 KB (its maximum is not known).
PRODUCTS_PER_REQUEST_MAX = 400
# Coinbase: client messages per second and burst, the stricter of its documents (FEED §10).
UPSTREAM_REQUESTS_PER_S = 8.0
UPSTREAM_REQUESTS_BURST = 50
# How often the list of products is read, and how long one REST answer may take.
CATALOGUE_REFRESH_S = 300.0
REST_TIMEOUT_S = 10.0

# A snapshot made from a book serves late joiners this long.
SNAPSHOT_AGE_MAX_S = 1.0
# Late joiners given a snapshot in one turn of the loop. With 16 a thousand of them held the
# others up for 90 ms (p99), with 4 for 30, and were served in a second all the same.
ADMISSIONS_PER_TURN_MAX = 4
# level2_batch made from level2: changes are gathered this long (FEED §5).
LEVEL2_BATCH_S = 0.05

# A level-3 book is fetched this long after its events have begun to flow (FEED §9), and a
# product's not more often than that: polling them is sanctioned (FEED §13).
ORDER_BOOK_SETTLE_S = 2.0
ORDER_BOOK_PAUSE_S = 10.0
# Who asks for a book whose events have just begun to flow waits for it this long: one fetched
# apart would not fit them (OrderbookSync and cbpro load theirs at once).
ORDER_BOOK_WAIT_S = 6.0

# ticker_batch: at most one message per product in this time (FEED §5).
TICKER_BATCH_S = 5.0

# A secret shorter than this is not searched for in text: it would hide ordinary words.
SECRET_CHARACTERS_MIN = 4

# Log lines of one kind: so many at once, then one in a period, with a count of the lines left out.
# A start with 40 products writes fewer; a peer that provokes a line per message fills no disk.
LOG_LINES_BURST = 20
LOG_PERIOD_S = 10.0
# Kinds of log lines and places of tracebacks remembered; the code has about a hundred.
LOG_KINDS_MAX = 1_000
# One value in a log line, all values of a line, one traceback; the rest of a value is cut.
LOG_VALUE_CHARACTERS_MAX = 1_000
LOG_LINE_CHARACTERS_MAX = 8_000
LOG_TRACEBACK_CHARACTERS_MAX = 32_000
# Elements of one list in a log line.
LOG_ITEMS_MAX = 50

# Drain (DESIGN §6).
DRAIN_NOTICE_S = 0.0
DRAIN_SPREAD_S = 5.0
DRAIN_TIMEOUT_S = 20.0
# A second signal sooner than this after the first is the same Ctrl-C arriving twice.
SECOND_SIGNAL_S = 1.0

# SSE ids state every topic up to this many; above, only the last event of a batch does.
SSE_ID_TOPICS_MAX = 8

# Unacknowledged data this old ends the connection in the kernel: above the backlog's age
# limit plus the farewell, so that our own, better explained end comes first.
UNACKED_MAX_S = BACKLOG_AGE_MAX_S + GOODBYE_WRITTEN_S + FAREWELL_S + 5.0
# Connections the kernel completes for us while we are busy.
LISTEN_BACKLOG_MAX = 4096

# The exchange's REST service: 10 requests a second and a burst of 15 per address (FEED §13),
# with some left for the operator's own curl.
REST_REQUESTS_PER_S = 8.0
REST_REQUESTS_BURST = 12
# Requests in flight at once, and those waiting for their turn: 5 s of them.
REST_IN_FLIGHT_MAX = 8
REST_WAITING_MAX = 40
# Requests of askers in a row while a backfill waits: it gets at least every fifth.
REST_ASKERS_IN_A_ROW_MAX = 4
# How long one who asks us waits for an answer of the exchange, the queue included.
REST_ASKER_S = 8.0
# One answer: a level 3 book is the largest, several MB; an error's body is a line.
REST_ANSWER_BYTES_MAX = 16 * 1024 * 1024
REST_ERROR_BYTES_MAX = 4 * 1024
# Answers kept for the next askers, least recently used out first.
REST_KEPT_ANSWERS_MAX = 512
REST_KEPT_BYTES_MAX = 32 * 1024 * 1024
# After a 429 nothing is asked for at least this long; each further one in a row doubles it,
# up to the cap, before jitter. A longer Retry-After is believed up to its own cap.
REST_PAUSE_MIN_S = 1.0
REST_PAUSE_MAX_S = 30.0
REST_RETRY_AFTER_MAX_S = 300.0
# Tries of a request that meets 429 each time.
REST_LIMITED_TRIES_MAX = 3

# Trades fetched for one gap: fifty pages, 10 s of REST; an outage of BTC-USD of two hours.
BACKFILL_TRADES_MAX = 50_000
# Gaps waiting to be filled: what a reconnect finds for every product with trades.
BACKFILL_GAPS_MAX = 1_000
# Trades handed on at once.
BACKFILL_CHUNK_TRADES_MAX = 500
# Pause between two chunks: notices go ahead of data and may not pile up before one who reads.
BACKFILL_CHUNK_PAUSE_S = 0.1
# The newest trades among them are told again to whoever subscribes: a product's at most so
# many, 140 KB, which fit into what may wait for a subscriber beside data.
BACKFILL_RETOLD_TRADES_MAX = 1_000
# Gaps of a topic told to who comes before its next message; the newest count.
STANDING_GAPS_MAX = 20
# The newest trades may be missing from REST for some seconds (FEED §13).
BACKFILL_PATIENCE_S = 15.0
# Tries of a page in a row before the rest of its gap is given up.
BACKFILL_TRIES_MAX = 6
# Backfilled trades kept for those who resume: all products together, and how long.
BACKFILLED_TRADES_MAX = 100_000
BACKFILLED_KEEP_S = 600.0

# Instances of one machine; more than cores there are.
INSTANCES_MAX = 100
# How long another instance may take to answer: it answers in milliseconds, unless it is stuck.
PEER_ANSWER_S = 2.0
# How often an instance looks how many share the address that the exchange counts by.
INSTANCES_LOOK_S = 5.0
# What all instances said is told again this long.
INSTANCES_KEEP_S = 0.5

# A block of history is sealed when it holds so many bytes, or has been open so long.
BLOCK_BYTES = 64 * 1024
BLOCK_AGE_S = 10.0
# One message alone may be larger than a block, as large as upstream's largest can be set.
BLOCK_INFLATED_BYTES_MAX = 1024 * 1024 * 1024
# How often what came is written to the store; at most a second may be unflushed.
HISTORY_FLUSH_S = 0.25
# A product that was not heard for so long holds up nobody who asks up to when all is stored.
HISTORY_HEARD_S = 3600.0
# How often an instance that does not write looks whether nobody does: takeover within 1 s.
HISTORY_LOOK_S = 0.25
# Pause before a store that failed is tried again.
HISTORY_AGAIN_S = 1.0
# What one writer hands over to the next: receive times of instances differ, hung writers
# are killed by the watchdog; numbers that begin anew take longer.
HISTORY_OVERLAP_S = 60.0
# Messages written in one transaction; one takes 10 µs and others want to read.
HISTORY_BATCH_MAX = 20_000
# How long history is kept, and how large it may be.
HISTORY_AGE_MAX_S = 7 * 86_400.0
HISTORY_BYTES_MAX = 10 * 1024 * 1024 * 1024
# How often what is too old is removed; blocks and free pages of it at once.
HISTORY_RETAIN_S = 60.0
HISTORY_RETAIN_BLOCKS_MAX = 64
HISTORY_VACUUM_PAGES_MAX = 2_000
# Messages read of open blocks at once, and bytes of unpacked blocks held for the next reader.
HISTORY_PAGE_MESSAGES_MAX = 2_000
HISTORY_CACHE_BYTES_MAX = 64 * 1024 * 1024
# A book's record begins with a snapshot at least this often, for who reads it from the middle.
HISTORY_SNAPSHOT_S = 600.0
# Pages of the past that are kept for the next reader of the same topics.
HISTORY_PAGES_MAX = 64
# Places of messages that are kept for the next who come back from there.
HISTORY_PLACES_MAX = 1_000

# The tape keeps what is younger for who takes over the writing of history: the watchdog kills
# a hung writer after 10 s and 3 more for its last words, and 10 s are for what else may come.
TAPE_KEEP_S = 25.0
# Messages that one query of history gives: unless asked otherwise, and at most.
HISTORY_QUERY_MESSAGES_DEFAULT_MAX = 1_000
HISTORY_QUERY_MESSAGES_MAX = 100_000
# How long a query of history writes rows or lines in one turn of the loop, and how many messages
# between two looks at the clock: 0.2 ms of CSV.
HISTORY_WRITING_TURN_S = 0.001
HISTORY_WRITTEN_MESSAGES_MAX = 10
# A message from this size on is written by a thread: 1 MB of a book as CSV takes half a second.
HISTORY_LARGE_BYTES = 32 * 1024
# A page that was read faster than this needs no pause; a shorter sleep takes a millisecond anyway.
HISTORY_PAUSE_MIN_S = 0.002
# How long a browser may remember what a page of another origin may send: changes are rare.
PREFLIGHT_KEEP_S = 3_600.0
# A cell of CSV: a spreadsheet holds 32,767 characters, and Python's csv module 131,072.
CSV_CELL_CHARACTERS_MAX = 32_000
# A day in 86 seconds. What is faster is as fast as it is read: 0.
REPLAY_SPEED_MAX = 1_000
# What is due within this time is replayed together.
REPLAY_TICK_S = 0.01
# What is given at once to who catches up: 64 KiB, the kernel's buffer of a subscriber.
RESUME_CHUNK_BYTES = 64 * 1024
# Messages of the tape that are looked through, and whose bytes are shared, together.
RESUME_WINDOW_MESSAGES_MAX = 256
RESUME_PAGES_MAX = 256
# Subscribers that are given a part in one turn of the loop: half a millisecond altogether.
RESUMES_PER_TURN_MAX = 16
# How long a position may be ahead of this instance's feed (DESIGN §5).
RESUME_AHEAD_MAX_S = 5.0
# How often is looked again for what is about to come or to be written.
RESUME_LOOK_S = 0.1
# When what is missing is not written by then, or nothing was for so long, others are asked.
RESUME_ASK_S = 5.0
# They are busy then themselves: what they remember is a page or two, and somebody waits for it.
RESUME_FETCH_S = 5.0
# For so many streams they are asked at a time; more would only make them all too slow.
RESUMES_ASKING_MAX = 4
# How often one stream has them asked for the same when our own record begins anew meanwhile.
RESUME_ASKS_MAX = 3
# What nobody had is not asked for again within this time.
RESUME_NOWHERE_S = 10.0
# What is taken from one of them for one stream, at most.
RESUME_FETCH_MESSAGES_MAX = 50_000
# How long is waited for another instance to write what is missing: a hung one is killed by
# its watchdog and replaced within this time.
RESUME_PATIENCE_S = 30.0
# Instances receive the same message at most so far apart.
RESUME_MARGIN_S = 2.0
