"""Text of the HAProxy configuration; ``haproxy`` replaces the names after dollar signs."""

HEAD = """\
# HAProxy in front of hedgehogd: one public address, several instances on this machine.
# Written by `hedgehogd haproxy-config`; for HAProxy 2.6 (Debian 12) and newer.
# Check before a reload: haproxy -c -f FILE

"""

DEBIAN = """
    log /dev/log local0
    user haproxy
    group haproxy
    chroot /var/lib/haproxy
    # For the operator, through socat: "show servers state", "set server ready/2 state drain".
    stats socket /run/haproxy/admin.sock mode 660 level admin
"""

UNPRIVILEGED = """
    log stdout format raw local0 notice
"""

TLS = "    ssl-default-bind-options ssl-min-ver TLSv1.2\n"

GLOBAL = """\
global
$process
$tls    # Open connections: an instance accepts $subscribers_max subscribers and $visitors_max other
    # connections; here are two file descriptors for each, and a reserve. With fewer
    # (LimitNOFILE=, ulimit -Hn) HAProxy serves fewer; further connections wait in the kernel.
    fd-hard-limit $files_max
    # After a reload the old process keeps its open streams until they end, until this time is
    # over, or until so many reloads have passed: then it closes them, without a farewell.
    hard-stop-after 24h
    mworker-max-reloads 20
    # Kernel buffers, which Linux doubles. By default Linux grows them to megabytes, and a
    # subscriber that reads too slowly would be noticed minutes late: its unread bytes have to
    # wait in the instance, which applies its policy. 1 MB/s over 100 ms still fits.
    tune.sndbuf.client $buffer_bytes
    tune.rcvbuf.server $buffer_bytes

"""

DEFAULTS = """\
defaults
    mode http
    log global
    option dontlognull

    # HAProxy keeps the client's connection for its next request, but not the one to an
    # instance: an instance answers one request per connection.
    option http-server-close
    # Send every message of a stream at once; without this, its last part could wait up to
    # 200 ms for the next message.
    option http-no-delay
    # After a reload, an idle connection of a client closes after an answer, not on a request.
    option idle-close-on-response

    # Forward a request together with its body, or the first 16 KiB of it. A request without its
    # complete body ends here, by timeout http-request, and uses no place of an instance.
    option http-buffer-request

    # A request that an instance did not accept, or left unanswered because it ended, goes to
    # another one. All requests may be repeated: POST and DELETE are idempotent.
    retries 3
    option redispatch 1
    retry-on conn-failure empty-response

    # An instance sends bytes at least every $keep_alive_s s, on a quiet stream too. So these
    # timeouts end only dead connections. A tunnel is a WebSocket; SSE and NDJSON are answers.
    timeout connect 2s
    timeout http-request ${head_timeout_s}s
    timeout http-keep-alive 30s
    timeout client ${quiet_max_s}s
    timeout server ${quiet_max_s}s
    timeout tunnel ${tunnel_quiet_max_s}s
    # Longest silence of one side after the other has ended its own.
    timeout client-fin ${half_closed_max_s}s
    timeout server-fin ${half_closed_max_s}s

    # The instances see this HAProxy, not the clients. HAProxy detects a vanished client by TCP
    # keep-alive on a quiet connection and by tcp-ut (bind lines) for unacknowledged data.
    option clitcpka
    clitcpka-idle 30s
    clitcpka-intvl 10s
    clitcpka-cnt 3

    # HAProxy's own errors have the form of the instances' errors.
$errors

"""

PUBLIC = """\
frontend public
$binds
    maxconn $connections_max

    # Connections of an address are counted at accept, so that those which send nothing count too;
    # IPv6 by /64. Further ones are closed without an answer. The operator's own proxies have no
    # limit: for them, the address that they name in X-Forwarded-For counts.
    acl from_proxy src $trusted_proxies
    tcp-request connection track-sc0 src,ipmask(32,64) table addresses unless from_proxy
    tcp-request connection reject if { sc_conn_cur(0) gt $address_connections_max }
    tcp-request connection reject if { sc_conn_rate(0) gt $address_connections_max }

    # One log line per answer or stream, at its end, without query and session id: ids are keys.
    http-request set-var(txn.path) path,regsub(/sessions/.*,/sessions/-)
    log-format "%ci:%cp [%tr] %ft %b/%s %TR/%Tw/%Tc/%Tr/%Ta %ST %B %tsc %ac/%fc/%bc/%sc/%rc \
%HM %[var(txn.path)] %HV"

    # A stream is one request, of any length. One connection of HTTP/2, or of a proxy, has many:
    # so open requests are counted too.
    http-request set-src req.hdr_ip(x-forwarded-for,-1) if from_proxy
    http-request track-sc0 src,ipmask(32,64) table addresses unless from_proxy
    http-request track-sc1 src,ipmask(32,64) table streams unless from_proxy
    acl too_many sc_http_req_rate(0) gt $address_requests_max
    acl too_many sc_conn_cur(1) gt $address_connections_max
    http-request deny deny_status 429 $too_many if too_many

    # HAProxy states the client's address; the client's own statements are removed.
    http-request del-header Forwarded
    http-request del-header X-Real-IP
    http-request del-header Proxy
    http-request set-header X-Forwarded-For %[src]
    http-request set-header X-Forwarded-Proto http
    http-request set-header X-Forwarded-Proto https if { ssl_fc }

    # A command for an open stream goes to the instance that has it: session ids start with its
    # number. Any other instance would forward the command; this saves the detour.
    acl about_pair path_beg /api/v1/subscribe/
    acl about_session path_beg /api/v1/sessions/
    acl command method POST DELETE
    acl named req.hdr(Hedgehog-Session) -m found
    http-request set-var(txn.owner) path,field(5,/),field(1,.) if about_session
    http-request set-var(txn.owner) url_param(session),field(1,.) if about_pair command
    http-request set-var(txn.owner) req.hdr(Hedgehog-Session),field(1,.) \
if about_pair command named

    # When no instance has a fresh feed, live instances serve the clients and report `stale`,
    # instead of refusing them.
    use_backend living if { nbsrv(ready) eq 0 }
    default_backend ready

# Open connections of each address, and its activity in the last 10 s.
backend addresses
    stick-table type ipv6 size 100k expire 1m store conn_cur,conn_rate(10s),http_req_rate(10s)

# Open requests of each address, streams included.
backend streams
    stick-table type ipv6 size 100k expire 1m store conn_cur

"""

_CHECKED_BY = """\
    balance leastconn
    option httpchk
    http-check send meth GET uri ROUTE ver HTTP/1.1 hdr Host localhost
    http-check expect status 200
    timeout check 1s
    default-server check inter 500ms fall 2 rise 2
    # Ignored if the instance does not exist or is down.
    use-server %[var(txn.owner)] if { var(txn.owner) -m found }
$servers

"""

BACKENDS = f"""\
# The instances with a fresh feed. A draining instance answers 503 here first; it is down after
# at most 1.5 s, and gets no new streams. Its open streams continue until their farewell: so do
# not add `on-marked-down shutdown-sessions`, which would close them.
backend ready
{_CHECKED_BY.replace("ROUTE", "/readyz")}\
# The same instances, while they are alive and do not drain.
backend living
{_CHECKED_BY.replace("ROUTE", "/healthz")}"""

STATISTICS = """\
# Statistics page at /, Prometheus at /metrics; from this machine only.
frontend statistics
    bind 127.0.0.1:$statistics_port
    maxconn $statistics_connections_max
    no log
    http-request use-service prometheus-exporter if { path /metrics }
    stats enable
    stats uri /
    stats refresh 5s
"""
