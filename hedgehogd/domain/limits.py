"""The limits of the daemon: for each a name with its unit, a value and the reason for the figure.

Every queue, buffer, wait and rate has a limit. A limit that concerns one module alone is in that
module. A limit that an operator may want to change is a configuration key of the same name; the
value here is its default.
"""

# Size of a request head, in bytes: h11, Node and Hypercorn allow 16 KiB too.
HEAD_BYTES_MAX = 16 * 1024
# Seconds until a request head must be complete: a slower one is an attack or a dead connection.
HEAD_TIMEOUT_S = 10.0
# Random addition to HEAD_TIMEOUT_S, in seconds, so that a thousand connections that arrived
# together do not all expire in one turn of the loop.
HEAD_TIMEOUT_SPREAD_S = 2.0
# Connections with an incomplete request head or an unsent refusal. At the limit a new connection
# replaces a waiting one (streaming/admission.py).
VISITORS_MAX = 1024
# Control requests in progress: ten times the number that quick clients have open at 1,000 requests
# a second. Counted apart from VISITORS_MAX, so that they never use the places of request heads.
CONTROL_REQUESTS_MAX = 256
# Control requests in progress of one limited address: more than a page with all its charts sends
# at once.
CONTROL_REQUESTS_PER_ADDRESS_MAX = 32
# Seconds without progress after which a control request may be replaced when all places are in
# use, even if its address holds no more places than other addresses: ordinary requests are
# answered in a few ms.
CONTROL_GRACE_S = 0.1
# Control requests that a limited address may start at once: a browser opens six connections.
CONTROL_STARTS_BURST = 8
# Control requests that it may start per second after that burst: equal to its rate of new
# connections. One start takes 2 ms of the loop, so the 32 places of an attacker, which become free
# together, must not be filled in one turn. For each CONTROL_STARTS_BURST places that the address
# holds, a start costs one token more: 20 starts a second with all places held, because requests
# that stay wait for their peer and do not come from a quick client.
CONTROL_STARTS_PER_S = 100.0
# Seconds that a control request of a limited address may wait for its start, and a new stream for
# its turn to subscribe to the topics of its URL; a longer wait is answered with 503.
CONTROL_WAIT_MAX_S = 5.0
# Replacements per second of a control request by another one that leaves the distribution over
# addresses no fairer: a flood that replaced its own requests at 1,000 a second used the whole core,
# at 2 to 15 ms each.
CONTROL_EXCHANGES_PER_S = 20.0
# Seconds in which the peer must accept the next part of a control answer, or its connection is
# closed. The kernel reports free space in steps of 48 KiB (measured), so a reader of 10 KiB/s gets
# the whole answer.
ANSWER_STALL_S = 5.0
# Connections of one address (IPv6: of one /64), streams included: a tenth of the subscribers of an
# instance. An office with trading bots has some hundreds.
ADDRESS_CONNECTIONS_MAX = 1_000
# New connections per second of one address, and the seconds of that rate that it may open at once:
# all connections that an address may hold can reconnect together after a restart.
ADDRESS_CONNECTIONS_PER_S = 100.0
ADDRESS_BURST_S = 10.0
# Addresses that have no connection but a remembered rate: 5 MB. A forgotten address loses nothing,
# because its full burst returns after ADDRESS_BURST_S anyway.
ADDRESSES_REMEMBERED_MAX = 16_384
# Size of a REST control request's body, a list of channels, in bytes; Quart answers 413 to more.
BODY_BYTES_MAX = 64 * 1024

# Size of one message from a client, in bytes: a subscribe to 838 products has 10 KB.
CLIENT_MESSAGE_BYTES_MAX = 64 * 1024
# Commands of one connection: a burst, then a steady rate per second. Pings do not count.
CLIENT_COMMANDS_BURST = 100
CLIENT_COMMANDS_PER_S = 10.0
# Seconds until the first subscribe of a connection: Coinbase closes one without (COINBASE §3.1).
FIRST_SUBSCRIBE_S = 5.0
# Subscribers for which one turn of the loop executes a command: 50 µs each.
COMMANDS_PER_TURN_MAX = 32
# Topics that one address may change at once, by one command or several: more than every public
# channel of 838 products (TOPICS_PER_SUBSCRIBER_MAX). After that burst a rate per second: forty
# addresses at this rate use as much as all large commands together may.
COMMAND_TOPICS_BURST = 10_000
ADDRESS_TOPICS_PER_S = 250.0
# Topics per second that all large commands together change: a tenth of the loop's time.
COMMAND_TOPICS_PER_S = 10_000.0
# Topics up to which a command counts as small: it takes half a millisecond at most.
COMMAND_TOPICS_SMALL_MAX = 100
# Remembered allowances of topics, one per address; a forgotten address has its full burst again.
ALLOWANCES_MAX = 10_000
# History queries of one address that wait for their turn, each with a page in memory.
HISTORY_WAITING_MAX = 16
# Topics of one subscriber: more than every public channel of 838 products.
TOPICS_PER_SUBSCRIBER_MAX = 10_000
# Subscribers of one instance: 10,000 use half of the usual limit of open files.
SUBSCRIBERS_MAX = 10_000
# Open files reserved beside those of subscribers: all visitors and control requests, which must not
# exhaust the files, and 220 for listeners, feeds, history and peer instances.
SPARE_FILES_MIN = VISITORS_MAX + CONTROL_REQUESTS_MAX + 220

# Bytes in the backlog of one slow subscriber: a level2 snapshot and a busy minute.
BACKLOG_BYTES_MAX = 4 * 1024 * 1024
# Age of the oldest message in a backlog, in seconds: a price that is ten seconds old is worthless.
BACKLOG_AGE_MAX_S = 10.0
# Memory of all backlogs of an instance together, in bytes: 32 subscribers at BACKLOG_BYTES_MAX. A
# stall of a whole network fits, because the members of a cohort share bytes.
WAITING_BYTES_MAX = 128 * 1024 * 1024
# Bytes freed by backlogs after which the allocator is asked to return memory to the system: it
# takes a few ms each time.
TRIM_BYTES_MIN = 16 * 1024 * 1024
# Seconds that a subscriber has to close its connection after it received its farewell.
FAREWELL_S = 2.0
# Seconds in which a farewell must be written after the bytes that the kernel already holds: a
# reader of 13 KB/s gets it in time, the connection of one that does not read is closed.
GOODBYE_WRITTEN_S = 10.0
# The kernel's send buffer of one subscriber, in bytes (Linux doubles it): small, so that a slow
# reader shows early and a farewell has little to wait for; 1 MB/s over 100 ms still fits.
SEND_BUFFER_BYTES = 64 * 1024
# Bytes of acknowledgements, errors and pongs that wait for a subscriber that does not read.
CONTROL_BYTES_MAX = 256 * 1024

# Seconds without a message after which a quiet stream gets a keep-alive: below the shortest common
# proxy timeout (30 s).
KEEP_ALIVE_S = 15.0
# Seconds that a new stream still waits for its turn after its client shut down its sending side:
# most such clients have left, and those within their address's allowance get their turn at once.
HALF_CLOSED_WAIT_S = 1.0
# Pauses in seconds after each write that probes whether a subscriber still reads after it shut
# down its sending side: round trips within a machine, across a continent and over a bad link.
HALF_CLOSED_PROBES_S = (0.3, 1.0, 3.0)
# Seconds of silence, pongs included, after which a WebSocket peer counts as gone.
PEER_SILENCE_MAX_S = 60.0

# Seconds between two readings of the loop's clock, beyond an announced sleep, that still count as
# running time. The rest of a longer pause (SIGSTOP) counts towards no timeout.
PAUSE_MIN_S = 1.0

# Batches between feed and broker: about 1 s of the busiest second recorded (632 messages).
INBOX_BATCHES_MAX = 256
# Messages joined into one write: deliveries that arrive during a publish are joined up to this
# count, 30 to 90 KB, far below BACKLOG_BYTES_MAX.
MESSAGES_PER_WRITE_MAX = 256
# New objects between two runs of Python's cycle collector: 60 connections create as many. Under
# the attack "stuck streams" runs over 20,000 were pauses of 13 to 57 ms, over 4,000 of 2 to 22 ms.
GC_NEW_OBJECTS_MAX = 4_000
# Writes in one turn of the loop before other tasks run: about 2 ms. A control request takes some
# 40 turns, so a subscriber's request waits for as many.
WRITES_PER_TURN_MAX = 256
# Messages appended to cohorts in one turn of the loop, counted once for each cohort: about 0.5 ms.
ROUTED_PER_TURN_MAX = 4096
# Messages encoded for cohorts in one turn: with a resume position, and stored in the backlog of a
# subscriber that does not read, each costs as much as ten writes.
FORMED_PER_TURN_MAX = 25
# Seconds that a thread that reads or writes history runs before the loop's thread runs again. The
# loop may wait for it once in each of the some 40 turns of a control request.
THREAD_TURN_S = 0.0001
# Bytes of the tape, the recent messages in memory: two minutes of the busiest second recorded.
TAPE_BYTES_MAX = 64 * 1024 * 1024
# Topics remembered at once: interned, watched for gaps, with a position after their messages have
# left the tape. Four times every public channel of 838 products.
TOPICS_MAX = 20_000
# Largest sequence or trade id: the largest integer that every JSON reader represents exactly.
# Coinbase's numbers are below it (COINBASE §6).
SEQUENCE_MAX = 2**53 - 1

# Largest plausible step in a product's trade ids: BTC-USD has up to half a million trades a day, so
# an outage of two days is reported as a gap. A larger step is a reset of the ids or an error.
TRADE_ID_STEP_MAX = 1_000_000
# Largest plausible step in sequences: two days of BTC-USD's up to 1,000 engine events a second
# (COINBASE §7).
SEQUENCE_STEP_MAX = 200_000_000
# Implausible numbers in a row, each greater by one than the last, that count as a reset by the
# exchange: so many are not an error. Until then each number below the newest counts as a repeat.
ODD_NUMBERS_MAX = 10
# Seconds after which numbers a little below the last one count as reset by the exchange: a server
# that lags sends such numbers too, but not alone for so long, and its messages are older than the
# last one. Half of STALE_AFTER_S: delivery of a market continues before it would be reported as
# stale.
SET_BACK_AFTER_S = 5.0
# Seconds that messages after a gap wait for the other line to fill it: the most that a gap delays
# a market (docs/decisions/0006-arbitration.md).
GAP_PATIENCE_S = 0.05
# Messages of one product queued after a gap: a second of the busiest full channel.
WAITING_MESSAGES_MAX = 1_000
# Seconds without a message of a product after which its primary connection is replaced, if the
# other line still delivers the product: three heartbeats.
LEADER_SILENCE_S = 3.5
# Seconds of silence after which a product that has heartbeats counts as interrupted: three
# heartbeats. Its book may have missed any number of updates.
PRODUCT_SILENCE_S = 3.5
# Seconds that a product's old subscription is kept after its new one delivers.
HANDOVER_S = 1.0
# Connections of one line that carry full and level3; all light channels share one connection.
HEAVY_CONNECTIONS_MAX = 8
# Moves of a product from a connection on which it is silent to another one.
MOVES_MAX = 3
# Unsuccessful repeated subscribes to a topic before its product is moved.
RENEWALS_BEFORE_MOVE_MAX = 2
# Seconds until a key that the exchange rejected is tried again: its clock or ours may have been
# wrong, or it may have had an outage.
KEY_AGAIN_S = 60.0
# Seconds until a channel that the exchange refused is requested again, because refusals are lifted.
# Each try may cost a dial, and subscribers that request the channel meanwhile are refused at once.
REFUSED_AGAIN_S = 600.0
# Dials per second, and dials at once: the exchange allows 8 a second, and 20 (COINBASE §10).
DIALS_PER_S = 4.0
DIALS_BURST = 8
# Shortest pause after HTTP 429, in seconds: eager clients have been locked out for minutes
# (COINBASE §16.7).
RATE_LIMITED_PAUSE_S = 10.0
# First and longest pause in seconds between two repeated subscribes to one topic: because an
# acknowledgement leaves it out, its product is silent, or its book is wrong. After the longest
# pause without a further subscribe the next pause is the first again.
RENEW_FIRST_S = 5.0
RENEW_MAX_S = 60.0
# Longest pause in seconds between requests of new snapshots for a fault that snapshots do not
# repair: unreadable rows may be a new format, and each snapshot goes to every subscriber of the
# book. The first pause is RESYNC_REPAIRED_S, and each one is twice the one before it.
RESYNC_AGAIN_S = 3600.0
# Seconds for which a book must be readable and not crossed after a snapshot to count as repaired:
# its next fault is a new one and requests a snapshot at once. Twice RENEW_MAX_S, because a
# requested snapshot arrives within half of it. A subscriber of a book that is crossed now and then
# gets at most one snapshot in this time.
RESYNC_REPAIRED_S = 120.0
# Log lines about faults of books that a snapshot did not repair; the counters continue.
RESYNCS_LOGGED_MAX = 50
# Seconds after which an auction without a report is over: one sends a report each second (COINBASE
# §6.14).
AUCTION_SILENCE_S = 60.0
# Messages of the tape that one answer about recent trades examines: 2 ms in one turn.
MEMORY_SCAN_MESSAGES_MAX = 20_000
# Upstream lines: each is a whole feed with its own connections.
LINES_MAX = 2

# Size of one upstream message, in bytes: BTC-USD snapshots are 1 to 5 MB (COINBASE §2).
UPSTREAM_MESSAGE_BYTES_MAX = 16 * 1024 * 1024
# Size of one read from the upstream socket, in bytes.
UPSTREAM_READ_BYTES = 64 * 1024
# Seconds without a byte after which an upstream connection is dead, even if TCP reports no error.
STALE_AFTER_S = 10.0
# Seconds from the name look-up to the end of the WebSocket handshake.
DIAL_TIMEOUT_S = 15.0
# Seconds until a dial that fails for the same reason as the last one is logged again: an outage is
# one fault.
DIAL_LOGGED_S = 300.0
# First and longest pause between dials, in seconds, before jitter.
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
# Seconds after which a connection counts as good: the pause after it is the first again.
BACKOFF_RESET_S = 30.0
# Seconds that an upstream subscription is kept after its last subscriber has left, for clients that
# reconnect.
LINGER_S = 30.0
# Seconds for which demand is collected before it is sent: a thousand joiners cause one message.
SUBSCRIBE_COLLECT_S = 0.02
# Products in one subscribe message: it stays near 5 KB (the exchange's maximum is not known).
PRODUCTS_PER_REQUEST_MAX = 400
# Messages per second and at once to the exchange: the stricter of its documents (COINBASE §10).
UPSTREAM_REQUESTS_PER_S = 8.0
UPSTREAM_REQUESTS_BURST = 50
# Seconds between two reads of the list of products, and seconds for one REST answer.
CATALOGUE_REFRESH_S = 300.0
REST_TIMEOUT_S = 10.0

# Seconds for which a snapshot made from a book serves late joiners.
SNAPSHOT_AGE_MAX_S = 1.0
# Late joiners that get a snapshot in one turn of the loop. With 16 a turn, a thousand joiners
# delayed other subscribers by 90 ms (p99); with 4 by 30 ms, and all were still served in a second.
ADMISSIONS_PER_TURN_MAX = 4
# Streams whose backlog has become too old that are conflated or ended in one turn of the loop: each
# may drop some thousand waiting messages, a millisecond of work.
AGED_PER_TURN_MAX = 4
# Seconds for which level2 changes are collected for one message of level2_batch (COINBASE §5).
LEVEL2_BATCH_S = 0.05

# Seconds between the first event of a level-3 book and its fetch by REST (COINBASE §9), and seconds
# between two fetches of one product's book: the exchange penalises clients that poll it (COINBASE
# §13).
ORDER_BOOK_SETTLE_S = 2.0
ORDER_BOOK_PAUSE_S = 10.0
# Seconds that a request for a level-3 book waits for the daemon's own book when the events of the
# product have just begun: a book fetched separately would not fit those events (OrderbookSync and
# cbpro load theirs at once).
ORDER_BOOK_WAIT_S = 6.0

# Seconds between two messages of one product on ticker_batch (COINBASE §5).
TICKER_BATCH_S = 5.0

# Shortest secret that is searched for in text, in characters: a shorter one would hide ordinary
# words.
SECRET_CHARACTERS_MIN = 4

# Log lines of one kind: a burst, then one in each period of seconds, with a count of the omitted
# lines. A start with 40 products writes fewer; a peer that provokes a line per message cannot fill
# a disk.
LOG_LINES_BURST = 20
LOG_PERIOD_S = 10.0
# Kinds of log lines and code locations of tracebacks remembered; the code has about a hundred.
LOG_KINDS_MAX = 1_000
# Characters of one value of a log line, of all its values, and of one traceback; a longer text is
# truncated.
LOG_VALUE_CHARACTERS_MAX = 1_000
LOG_LINE_CHARACTERS_MAX = 8_000
LOG_TRACEBACK_CHARACTERS_MAX = 32_000
# Elements of one list in a log line.
LOG_ITEMS_MAX = 50

# Drain, in seconds: from "not ready" to the closed listener, the spread of the farewells, and the
# end of the whole drain, after which the remaining tasks are cancelled.
DRAIN_NOTICE_S = 0.0
DRAIN_SPREAD_S = 5.0
DRAIN_TIMEOUT_S = 20.0
# Seconds within which a second signal counts as the same Ctrl-C, delivered twice.
SECOND_SIGNAL_S = 1.0

# Topics up to which every SSE id states the whole position; with more, only the last id of a batch.
SSE_ID_TOPICS_MAX = 8

# Age of unacknowledged data, in seconds, at which the kernel ends a connection: above the backlog's
# age limit plus the farewell, so that the daemon ends it first and reports the reason.
UNACKED_MAX_S = BACKLOG_AGE_MAX_S + GOODBYE_WRITTEN_S + FAREWELL_S + 5.0
# Connections that the kernel completes for a listener while the loop is busy.
LISTEN_BACKLOG_MAX = 4096

# REST requests per second and at once: the exchange allows 10 and 15 per address (COINBASE §13);
# the difference is for the operator's own curl.
REST_REQUESTS_PER_S = 8.0
REST_REQUESTS_BURST = 12
# REST requests in flight, and those that wait for their turn: 5 s at REST_REQUESTS_PER_S.
REST_IN_FLIGHT_MAX = 8
REST_WAITING_MAX = 40
# Requests for callers in a row while a backfill waits: the backfill gets at least every fifth.
REST_ASKERS_IN_A_ROW_MAX = 4
# Seconds that a caller waits for an answer of the exchange, its time in the queue included.
REST_ASKER_S = 8.0
# Bytes of one REST answer, and of an error's body: a level-3 book, the largest answer, has several
# MB; an error is a line.
REST_ANSWER_BYTES_MAX = 16 * 1024 * 1024
REST_ERROR_BYTES_MAX = 4 * 1024
# REST answers cached for later callers, and their bytes; the least recently used are dropped first.
REST_KEPT_ANSWERS_MAX = 512
REST_KEPT_BYTES_MAX = 32 * 1024 * 1024
# Seconds without a request after a 429: at least the minimum; each further 429 in a row doubles it,
# up to the maximum, before jitter. A longer Retry-After is obeyed up to a maximum of its own.
REST_PAUSE_MIN_S = 1.0
REST_PAUSE_MAX_S = 30.0
REST_RETRY_AFTER_MAX_S = 300.0
# Tries of one request that is answered with 429 each time.
REST_LIMITED_TRIES_MAX = 3

# Trades fetched for one gap: fifty pages or 10 s of REST; an outage of BTC-USD of two hours.
BACKFILL_TRADES_MAX = 50_000
# Gaps that wait for a backfill: a reconnect finds one for every product with trades.
BACKFILL_GAPS_MAX = 1_000
# Backfilled trades delivered in one notice.
BACKFILL_CHUNK_TRADES_MAX = 500
# Seconds between two such notices: notices precede data and must not pile up for a subscriber that
# reads.
BACKFILL_CHUNK_PAUSE_S = 0.1
# Newest backfilled trades of one product that a new subscriber of its matches gets: 140 KB, which
# fit into the backlog for control messages (CONTROL_BYTES_MAX).
BACKFILL_RETOLD_TRADES_MAX = 1_000
# Newest gap notices of one topic sent to a subscriber that joins before the topic's next message.
STANDING_GAPS_MAX = 20
# Seconds for which a backfill waits for the newest trades: REST shows them some seconds late
# (COINBASE §13).
BACKFILL_PATIENCE_S = 15.0
# Tries of one page in a row before the backfill of its gap ends unfinished.
BACKFILL_TRIES_MAX = 6
# Backfilled trades kept for resuming subscribers, all products together, and for how many seconds.
BACKFILLED_TRADES_MAX = 100_000
BACKFILLED_KEEP_S = 600.0

# Instances of one machine: more than it has cores.
INSTANCES_MAX = 100
# Seconds for an answer of a peer instance: it answers in milliseconds unless it hangs.
PEER_ANSWER_S = 2.0
# Seconds between two counts of the instances that share the address by which the exchange limits.
INSTANCES_LOOK_S = 5.0
# Seconds for which the collected answers of all instances are cached.
INSTANCES_KEEP_S = 0.5

# Bytes of one unpacked block of the store of older versions: one message may be the largest
# upstream message that can be configured.
BLOCK_INFLATED_BYTES_MAX = 1024 * 1024 * 1024
# Seconds between two appends to the log.
HISTORY_FLUSH_S = 0.25
# Seconds until a log that failed is tried again.
HISTORY_AGAIN_S = 1.0
# Seconds for which history is kept, and its size in bytes.
HISTORY_AGE_MAX_S = 7 * 86_400.0
HISTORY_BYTES_MAX = 10 * 1024 * 1024 * 1024
# Seconds between two removals of expired history.
HISTORY_RETAIN_S = 60.0
# Messages of one page of the archive, about: of one that readers share, and the fewest of one that
# is read for a short query alone.
HISTORY_PAGE_MESSAGES_MAX = 2_000
HISTORY_PAGE_MESSAGES_MIN = 20
# Seconds between two snapshots of a recorded book, so that a reader can start in the middle.
HISTORY_SNAPSHOT_S = 600.0
# Pages of recorded messages cached for the next reader of the same topics, and their bytes.
HISTORY_PAGES_MAX = 64
HISTORY_PAGES_BYTES_MAX = 64 * 1024 * 1024
# Places of messages in the archive (docs/GLOSSARY.md), cached for further subscribers that resume
# from the same message.
HISTORY_PLACES_MAX = 1_000

# Seconds for which the tape keeps messages for an instance that succeeds a hung writer of the log:
# it does so after LEASE_MAX_S at most; 5 s are a margin.
TAPE_KEEP_S = 25.0
LEASE_MAX_S = 20.0
# Seconds after which a read of history that has not returned is not waited for: a page takes a
# second of computing at most, a slow disk some seconds more.
HISTORY_READ_MAX_S = 10.0
# Bytes of the messages up to which the answer to a history query is held until it is sent, instead
# of read twice.
HISTORY_HELD_BYTES_MAX = 16 * 1024
# Messages that one history query returns: by default, and at most.
HISTORY_QUERY_MESSAGES_DEFAULT_MAX = 1_000
HISTORY_QUERY_MESSAGES_MAX = 100_000
# Seconds for which a history query encodes rows or lines in one turn of the loop, and messages
# between two readings of the clock: 0.2 ms of CSV.
HISTORY_WRITING_TURN_S = 0.001
HISTORY_WRITTEN_MESSAGES_MAX = 10
# Bytes from which a message is encoded in a thread: 1 MB of a book as CSV takes half a second.
HISTORY_LARGE_BYTES = 32 * 1024
# Shortest read of a page, in seconds, after which a history query pauses: a shorter sleep takes a
# millisecond anyway.
HISTORY_PAUSE_MIN_S = 0.002
# Seconds for which a browser may cache the answer to a CORS preflight: changes are rare.
PREFLIGHT_KEEP_S = 3_600.0
# Characters of one CSV cell: a spreadsheet holds 32,767, Python's csv module 131,072.
CSV_CELL_CHARACTERS_MAX = 32_000
# Fastest timed replay: a day in 86 seconds. Speed 0 replays as fast as messages are read.
REPLAY_SPEED_MAX = 1_000
# Seconds within which messages that are due are replayed together.
REPLAY_TICK_S = 0.01
# Seconds between two messages that a replay takes for a clock that was set, not for a silence.
REPLAY_STEP_S = 86_400.0
# Bytes delivered at once to a subscriber that catches up: the size of its kernel buffer.
RESUME_CHUNK_BYTES = 64 * 1024
# Messages of the tape in one page for resuming subscribers, and pages kept for them to share.
RESUME_WINDOW_MESSAGES_MAX = 256
RESUME_PAGES_MAX = 256
# Resuming subscribers that get a page in one turn of the loop: half a millisecond altogether.
RESUMES_PER_TURN_MAX = 16
# Seconds for which a resume waits when its position is ahead of this instance's feed: the feeds of
# instances lag by different amounts.
RESUME_AHEAD_MAX_S = 5.0
# Poll interval in seconds while waiting for the feed or the history writer.
RESUME_LOOK_S = 0.1
# Seconds of waiting for the archive to contain the missing messages, or of one without new ones,
# after which peer instances are asked.
RESUME_ASK_S = 5.0
# Seconds for the answers of all peers together: the peers are busy too, their tapes have a page or
# two of the missing messages, and a subscriber waits.
RESUME_FETCH_S = 5.0
# Streams for which peers are asked at a time: more would only slow all of them down.
RESUMES_ASKING_MAX = 4
# Times that peers are asked for the same messages of one stream: when our own record restarts
# meanwhile, and for a topic without a message here.
RESUME_ASKS_MAX = 3
# Seconds until messages of a gap that no peer had are requested again.
RESUME_NOWHERE_S = 10.0
# Messages fetched from one peer for one stream.
RESUME_FETCH_MESSAGES_MAX = 50_000
# Seconds of waiting for another instance to record the missing messages: within them the watchdog
# kills a hung writer and another one replaces it.
RESUME_PATIENCE_S = 30.0
# Largest difference in seconds between the receive times of one message at two instances.
RESUME_MARGIN_S = 2.0

# Bytes of one entry of the log: a batch with the largest upstream message, and as much again.
ENTRY_BYTES_MAX = 2 * UPSTREAM_MESSAGE_BYTES_MAX
# Seconds that the window of the log reaches back, and its bytes on the file system: half an hour of
# the whole exchange at 400 messages/s, with room for a busy quarter of an hour.
WINDOW_S = 1800.0
WINDOW_BYTES_MAX = 256 * 1024 * 1024
# Bytes of one segment of the window: with sixteen of them, removing one shortens the window by two
# minutes.
SEGMENT_BYTES = 16 * 1024 * 1024
# Bytes that are allocated ahead of the log's end: 30 ms at 400,000 messages/s. They are allocated
# in slices, one after an append: 16 MiB at once take 5 ms, a slice 0.1 ms.
ALLOCATED_AHEAD_BYTES = 4 * 1024 * 1024
ALLOCATION_SLICE_BYTES = 256 * 1024
# Bytes that a reader of the window reads at once: a busy second, read in a millisecond.
WINDOW_READ_BYTES = 256 * 1024
# Seconds without a renewal after which another instance may take the lease of the log: a turn of
# the loop is far shorter, and a hung writer delays delivery by this time.
LEASE_S = 2.0
# Seconds between two looks of a candidate at the lease: a sixth of the delay that is allowed after
# the death of a writer (0.3 s).
LEASE_LOOK_S = 0.05
# Seconds after which a follower of the log looks for records although no datagram arrived.
FOLLOWER_POLL_S = 0.1
# Seconds between two checks that the files of the window are still at their path.
WINDOW_CHECK_S = 2.0
# Followers that the writer of the log wakes: each costs 2 µs a batch. Further followers poll.
FOLLOWERS_MAX = 64
# Pages of earlier terms that are kept, 4 KiB each: a candidate that slept through as many terms
# could otherwise publish one of them again.
TERMS_KEPT_MAX = 256
# Places of the tape where the feed lost messages or a topic ended, for the writer of the log: it
# reads them four times a second. An end of all demand is a loss of each topic.
LOSSES_MAX = 2 * TOPICS_MAX
# Newest messages without numbers of each topic in the log that a new writer compares with its tape:
# a minute of heartbeats. The writer before it appended up to HISTORY_FLUSH_S before its end.
LOG_COMPARED_MESSAGES_MAX = 64
# Newest numbers of each topic in the log that tell where they last began again.
LOG_COMPARED_NUMBERS_MAX = 256
# Seconds by which the feed of a new writer may lag that of the writer before it: the lines of two
# instances lag by different amounts.
LOG_LATE_MAX_S = 5.0
# Records and bytes of one append to the log: a millisecond of the loop.
LOG_BATCH_RECORDS_MAX = 1_000
LOG_BATCH_BYTES_MAX = 512 * 1024
# Bytes of one message in the log; a larger one, which only a raised --upstream-message-bytes-max
# lets in, is recorded as a gap.
LOG_MESSAGE_BYTES_MAX = UPSTREAM_MESSAGE_BYTES_MAX
# Gaps in trades that wait for backfilled ones, and the ids of those that filled them: the gaps of a
# reconnect, each with some pages of trades.
LOG_GAPS_MAX = 1_000
LOG_FILLED_TRADES_MAX = 100_000
# Backfilled trades that wait for the next append: two backfills of the largest gap.
LOG_TRADES_WAITING_MAX = 2 * BACKFILL_TRADES_MAX
# Records that the archiver copies in one call: a tenth of a second of a thread.
ARCHIVER_RECORDS_MAX = 10_000
# Seconds by which the wall clock may drift from the monotonic one between two retentions; a larger
# step was set. Then records are not dropped by their age until the clock was steady for as many
# seconds: the bytes of history are bounded meanwhile, and a wrong clock is noticed within a day.
HISTORY_CLOCK_STEP_S = 60.0
HISTORY_CLOCK_STEADY_S = 86_400.0
# Seconds for which a start or a new term waits for a disk: the end of an archive is read in less
# than one, the tape keeps messages for TAPE_KEEP_S.
DISK_ANSWER_S = 5.0
# Seconds for which the archiver waits for its disk when it closes the archive.
ARCHIVER_CLOSE_S = 1.0
# Seconds between two calls of the archiver: about a second may be unsynced.
ARCHIVER_PAUSE_S = 1.0
# Seconds after which an archive that does not follow a growing log is a fault: a step takes less
# than one, and the lock of the writer before is waited for during ARCHIVE_LOCK_WAIT_S.
ARCHIVER_SILENT_MAX_S = 15.0
# Seconds between two requests of the archiver that all books begin again in the log: 20 MB.
ARCHIVER_BOOKS_S = 60.0
# Seconds for which a candidate waits for the archive of a writer whose window was removed: its
# check, and the copying of the rest.
ARCHIVE_LOCK_WAIT_S = 10.0
# Seconds for which a new instance leaves a free lease to the instances with an older tape.
LEASE_PATIENCE_S = 0.25
# Seconds for which a tape must have had messages before a writer ends, to have all that the writer
# did not append: the channels of a new feed begin one after the other, and a writer appends every
# HISTORY_FLUSH_S.
LEASE_REACH_S = 2.0
# Seconds for which a candidate waits for stores of other cores where membarrier(2) does not exist:
# a store becomes visible within microseconds.
STORES_VISIBLE_S = 0.01
# The archive (docs/STORE.md). Bytes of records collected before they are written to a tail even if
# no second has passed: a second of the busiest feed, and the memory of one block.
ARCHIVE_TAIL_BLOCK_BYTES = 4 * 1024 * 1024
# Bytes of records, or seconds, after which a tail ends and becomes one block: half a minute of the
# whole exchange. Larger blocks compress a little better, but a reader of all topics unpacks a whole
# block before its first page: 0.2 s.
ARCHIVE_BLOCK_BYTES = 8 * 1024 * 1024
ARCHIVE_TAIL_AGE_S = 300.0
# Payload bytes up to which quiet topics of one channel share a group: less compresses worse, more
# is unpacked in vain by a reader of one topic.
ARCHIVE_GROUP_BYTES = 16 * 1024
# Bytes on disk, or seconds, after which a segment is sealed: retention drops whole segments, and
# each begins with a snapshot of every book, some 20 MB for all of them.
ARCHIVE_SEGMENT_BYTES = 256 * 1024 * 1024
ARCHIVE_SEGMENT_AGE_S = 3_600.0
# The same in parts of the bytes that history may have, so that retention is not coarse.
ARCHIVE_SEGMENTS_MIN = 16
# Tails that wait to become blocks: with more, appending waits for compaction.
ARCHIVE_TAILS_WAITING_MAX = 4
# Bytes of unpacked groups and of indexes cached by one reader.
ARCHIVE_CACHE_BYTES_MAX = 64 * 1024 * 1024
ARCHIVE_INDEXES_BYTES_MAX = 32 * 1024 * 1024
# Sealed segments that one reader keeps open.
ARCHIVE_FILES_OPEN_MAX = 32
# Records of one page.
ARCHIVE_PAGE_RECORDS_MAX = 10_000
# Bytes of the texts of one page, which ends with the block that reaches them: a page of snapshots
# of books would have hundreds of MB.
ARCHIVE_PAGE_BYTES_MAX = 8 * 1024 * 1024
# Blocks that one page unpacks: a second of computing for a topic with few messages in each.
ARCHIVE_PAGE_BLOCKS_MAX = 256
# Waits before ``store check`` looks again whether a fault is only the work of a running writer: an
# append takes some milliseconds, the last wait is for a slow disk.
ARCHIVE_CHECK_PAUSES_S = (0.05, 0.2, 1.0)
# Tries of a reader to see one state of an archive whose writer removes files meanwhile.
ARCHIVE_VIEW_TRIES_MAX = 10
