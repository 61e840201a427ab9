"""The text of the HAProxy configuration; ``haproxy`` fills in what begins with a dollar."""

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
$tls    # Connections at once: an instance takes $subscribers_max subscribers, and $visitors_max
    # that ask for something else; here are two file descriptors for each, and some to spare.
    # With less (LimitNOFILE=, ulimit -Hn) HAProxy makes do. Further ones wait in the kernel.
    fd-hard-limit $files_max
    # After a reload the old process keeps the streams that are open, until they end, or this
    # time is over, or so many reloads have passed: then it cuts them, without a farewell.
    hard-stop-after 24h
    mworker-max-reloads 20
    # Kernel buffers, which Linux doubles. Left to itself it grows them to megabytes, and a
    # subscriber that reads too slowly would be noticed minutes late: what waits for it has to
    # stand in the instance, which knows what to do about it. 1 MB/s over 100 ms still fits.
    tune.sndbuf.client $buffer_bytes
    tune.rcvbuf.server $buffer_bytes

"""

DEFAULTS = """\
defaults
    mode http
    log global
    option dontlognull

    # The client's connection is kept for its next request, the one to an instance is not: an
    # instance takes one request a connection.
    option http-server-close
    # Every message of a stream is worth sending at once; without this, the last part of each
    # could wait up to 200 ms for a next one.
    option http-no-delay
    # On a reload, idle connections of clients end with an answer, not under a request.
    option idle-close-on-response

    # A request is passed on with its body, or the first 16 KiB of it, so that bodies which do not
    # come end here, by timeout http-request, and take no place of an instance.
    option http-buffer-request

    # A request that an instance did not take, or dropped unanswered because it died, goes to
    # another. All of them may be repeated: POST and DELETE say what shall be, not what to do.
    retries 3
    option redispatch 1
    retry-on conn-failure empty-response

    # An instance sends something at least every $keep_alive_s s, on a quiet stream too. So these
    # end only what is dead. A tunnel is a WebSocket; SSE and NDJSON are ordinary long answers.
    timeout connect 2s
    timeout http-request ${head_timeout_s}s
    timeout http-keep-alive 30s
    timeout client ${quiet_max_s}s
    timeout server ${quiet_max_s}s
    timeout tunnel ${tunnel_quiet_max_s}s
    # One side has said its last word: how long the other may be silent.
    timeout client-fin ${half_closed_max_s}s
    timeout server-fin ${half_closed_max_s}s

    # The instances see this HAProxy, not the clients: whoever is gone is noticed here, by TCP
    # keep-alive when the line is quiet and by tcp-ut (bind lines) when data is not acknowledged.
    option clitcpka
    clitcpka-idle 30s
    clitcpka-intvl 10s
    clitcpka-cnt 3

    # What HAProxy says itself looks like what the instances say.
$errors

"""

PUBLIC = """\
frontend public
$binds
    maxconn $connections_max

    # What one address may have is counted at accept, so that connections which send nothing count
    # too; IPv6 by /64. More are closed without an answer. Proxies of the operator's own have no
    # limit: for them, the address counts that they name in X-Forwarded-For.
    acl from_proxy src $trusted_proxies
    tcp-request connection track-sc0 src,ipmask(32,64) table addresses unless from_proxy
    tcp-request connection reject if { sc_conn_cur(0) gt $address_connections_max }
    tcp-request connection reject if { sc_conn_rate(0) gt $address_connections_max }

    # One line for each answer or stream, at its end. No query and no session's id: ids are keys.
    http-request set-var(txn.path) path,regsub(/sessions/.*,/sessions/-)
    log-format "%ci:%cp [%tr] %ft %b/%s %TR/%Tw/%Tc/%Tr/%Ta %ST %B %tsc %ac/%fc/%bc/%sc/%rc \
%HM %[var(txn.path)] %HV"

    # A stream is one request, however long it lasts. By HTTP/2, or from a proxy, one connection
    # has many: so open requests are counted as well.
    http-request set-src req.hdr_ip(x-forwarded-for,-1) if from_proxy
    http-request track-sc0 src,ipmask(32,64) table addresses unless from_proxy
    http-request track-sc1 src,ipmask(32,64) table streams unless from_proxy
    acl too_many sc_http_req_rate(0) gt $address_requests_max
    acl too_many sc_conn_cur(1) gt $address_connections_max
    http-request deny deny_status 429 $too_many if too_many

    # Who the client is, we say. What it says itself about that is dropped.
    http-request del-header Forwarded
    http-request del-header X-Real-IP
    http-request del-header Proxy
    http-request set-header X-Forwarded-For %[src]
    http-request set-header X-Forwarded-Proto http
    http-request set-header X-Forwarded-Proto https if { ssl_fc }

    # A command for an open stream goes to the instance that has it: ids of sessions start with
    # its number. Any other instance would pass it on; this saves the detour.
    acl about_pair path_beg /api/v1/subscribe/
    acl about_session path_beg /api/v1/sessions/
    acl command method POST DELETE
    acl named req.hdr(Hedgehog-Session) -m found
    http-request set-var(txn.owner) path,field(5,/),field(1,.) if about_session
    http-request set-var(txn.owner) url_param(session),field(1,.) if about_pair command
    http-request set-var(txn.owner) req.hdr(Hedgehog-Session),field(1,.) \
if about_pair command named

    # When no instance has a fresh feed, clients are served by those that live and are told
    # `stale`, instead of being refused.
    use_backend living if { nbsrv(ready) eq 0 }
    default_backend ready

# What each address has open, and did in the last 10 s.
backend addresses
    stick-table type ipv6 size 100k expire 1m store conn_cur,conn_rate(10s),http_req_rate(10s)

# The requests of each address that are being answered, streams among them.
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
    # Ignored when there is no such instance or it is down.
    use-server %[var(txn.owner)] if { var(txn.owner) -m found }
$servers

"""

BACKENDS = f"""\
# The instances with a fresh feed. One that drains says 503 here first; it is out after at most
# 1.5 s, and gets no new streams. Its open ones go on until its farewell: so do not add
# `on-marked-down shutdown-sessions`, which would cut them.
backend ready
{_CHECKED_BY.replace("ROUTE", "/readyz")}\
# The same instances, as long as they live and do not drain.
backend living
{_CHECKED_BY.replace("ROUTE", "/healthz")}"""

STATISTICS = """\
# For people at /, for Prometheus at /metrics; from this machine only.
frontend statistics
    bind 127.0.0.1:$statistics_port
    maxconn $statistics_connections_max
    no log
    http-request use-service prometheus-exporter if { path /metrics }
    stats enable
    stats uri /
    stats refresh 5s
"""
