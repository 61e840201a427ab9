/*
 * The load receiver: N WebSocket subscribers in one thread, which count the messages they receive.
 *
 *   receiver --port P --connections N [--path /ws-feed] [--rate R] [--subscribe TEXT]
 *            [--eager] [--spin] [--stamp KEY] [--stalled] [--large BYTES] [--deflate]
 *            [--ack quick|delayed]
 *
 * Every message is counted by parsing frame headers; the payload is not read,
 * except for a send time when --stamp is given: 19 digits of CLOCK_MONOTONIC in ns,
 * right after the text KEY in messages up to FRAME_WHOLE_MAX bytes. Pings are
 * answered and closes returned, as any client would. --stalled subscribers finish
 * the handshake, send their subscribe text and never read again. With --spin the
 * receiver does not sleep during `wait`: the server's own sends would have to wake a
 * sleeping receiver on this machine, which costs the server time that no remote subscriber
 * would cost, and more of it the slower the server is. --large counts frames of that many
 * payload bytes apart: when each is complete, and the messages after it. With --deflate
 * permessage-deflate is offered and must be accepted; nothing is inflated. --ack holds all
 * sockets in one mode of acknowledgement and counts its segments (receiver_acks.c).
 *
 * Commands arrive on standard input, one a line; each is answered by one line of JSON:
 *
 *   connect            open all, R a second (0: as fast as possible with 64 at a time)
 *   subscribe          send the subscribe text on every open connection (with --eager
 *                      it was sent on each as soon as it was open)
 *   settle MS          wait until nothing has arrived for MS milliseconds
 *   start              forget all counts
 *   wait N MS          wait until every subscriber has N messages (and 200 ms more,
 *                      to see surplus ones), or until nothing has arrived for MS
 *   large MS           wait until every subscriber has a complete frame of --large bytes, or
 *                      has ended; MS at most
 *   window             the counts, now; then forget all latencies and keep those of
 *                      messages sent from now on
 *   shut               keep no latencies of messages sent from now on
 *   closed MS          wait until the server has closed every connection, MS at most
 *   report             the counts, now
 *
 * End of input ends the program.
 */
#define _GNU_SOURCE
#include "receiver.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#define IN_FLIGHT_MAX 64       /* handshakes in progress */
#define DEFLATE_OFFER "Sec-WebSocket-Extensions: permessage-deflate\r\n"
#define SURPLUS_NS 200000000LL /* time for messages beyond those expected */

struct options options = {.path = "/ws-feed"};
struct counts counts;
struct connection *connections;

enum order { NONE, CONNECT, SETTLE, WAIT, LARGE, CLOSED };
static struct {
    enum order order;
    int64_t begun_ns, limit_ns;
} pending;
static int poller, begun, finished, open_now;

static struct sockaddr_in server_address(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(options.port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

void end_connection(struct connection *c, int code) {
    if (c->state == OPEN)
        open_now--;
    else
        finished++;
    c->state = ENDED;
    if (counts.target && c->messages < counts.target)
        counts.lost++;
    if (code >= 0 && code < CLOSE_CODES)
        counts.closes[code]++;
    else
        counts.cut++;
    close(c->fd);
    free(c->carry);
    c->carry = NULL;
}

static void begin_connection(struct connection *c) {
    struct sockaddr_in address = server_address();
    int one = 1, tiny = 4096;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) {
        perror("receiver: socket");
        exit(1);
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (options.stalled) /* so that the server notices in seconds, not minutes */
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &tiny, sizeof tiny);
    c->state = CONNECTING;
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS)
        end_connection(c, -1);
}

static void send_request(struct connection *c) {
    char request[1024];
    int length = snprintf(request, sizeof request,
                          "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
                          "Connection: Upgrade\r\nSec-WebSocket-Key: " SAMPLE_KEY "\r\n"
                          "Sec-WebSocket-Version: 13\r\n%s\r\n",
                          options.path, options.port, options.deflate ? DEFLATE_OFFER : "");
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
    c->state = SHAKING;
    if (send(c->fd, request, length, MSG_NOSIGNAL) != length)
        end_connection(c, -1);
}

static void subscribe(struct connection *c) {
    if (!counts.asked_ns)
        counts.asked_ns = now_ns();
    send_frame(c, 1, options.subscribe, strlen(options.subscribe));
}

/* Read an answer head; the bytes after it belong to the frames. */
static void read_head(struct connection *c, uint8_t *data, int length) {
    uint8_t *end = memmem(data, length, "\r\n\r\n", 4);
    if (!end) {
        keep_rest(c, data, length);
        return;
    }
    if (memcmp(data, "HTTP/1.1 101", 12) || !memmem(data, end - data, SAMPLE_ACCEPT, 28) ||
        (options.deflate && !memmem(data, end - data, "permessage-deflate", 18))) {
        fprintf(stderr, "receiver: refused: %.*s\n", (int)(end - data), data);
        end_connection(c, -1);
        return;
    }
    c->state = OPEN;
    finished++;
    open_now++;
    if (options.eager)
        subscribe(c);
    if (options.stalled)
        epoll_ctl(poller, EPOLL_CTL_DEL, c->fd, NULL);
    else
        parse_frames(c, end + 4, data + length - end - 4);
}

static void read_some(struct connection *c) {
    static uint8_t buffer[READ_BYTES + FRAME_WHOLE_MAX];
    int kept = c->carried;
    if (kept)
        memcpy(buffer, c->carry, kept);
    ssize_t got = receive(c, buffer + kept, READ_BYTES);
    if (got <= 0) {
        if (got == 0 || (errno != EAGAIN && errno != EINTR))
            end_connection(c, -1);
        return;
    }
    c->carried = 0;
    counts.reads++;
    counts.last_read_ns = now_ns();
    if (c->state == SHAKING)
        read_head(c, buffer, kept + got);
    else
        parse_frames(c, buffer, kept + got);
}

static void answer(const char *order) {
    pending.order = NONE;
    printf("{\"order\":\"%s\",\"seconds\":%.6f,\"open\":%d,\"begun\":%d", order,
           (now_ns() - pending.begun_ns) / 1e9, open_now, begun);
    print_counts();
    printf("}\n");
    fflush(stdout);
}

/* Carry out one line of input; `progress` finishes commands that must wait. */
static void obey(char *line) {
    char word[16] = "";
    long long a = 0, b = 0;
    sscanf(line, "%15s %lld %lld", word, &a, &b);
    pending.begun_ns = now_ns();
    if (!strcmp(word, "connect")) {
        pending.order = CONNECT;
    } else if (!strcmp(word, "subscribe")) {
        for (int i = 0; i < begun; i++)
            if (connections[i].state == OPEN)
                subscribe(&connections[i]);
        answer(word);
    } else if (!strcmp(word, "start")) {
        forget_counts(begun);
        answer(word);
    } else if (!strcmp(word, "settle")) {
        pending.order = SETTLE;
        pending.limit_ns = a * 1000000;
    } else if (!strcmp(word, "wait")) {
        set_target(begun, a);
        pending.order = WAIT;
        pending.limit_ns = b * 1000000;
    } else if (!strcmp(word, "window")) {
        answer(word);
        begin_window();
    } else if (!strcmp(word, "shut")) {
        end_window();
        answer(word);
    } else if (!strcmp(word, "large")) {
        pending.order = LARGE;
        pending.limit_ns = a * 1000000;
    } else if (!strcmp(word, "closed")) {
        pending.order = CLOSED;
        pending.limit_ns = a * 1000000;
    } else {
        answer(word);
    }
}

static void progress(void) {
    int64_t now = now_ns(), waited = now - pending.begun_ns;
    int64_t last = counts.last_read_ns > pending.begun_ns ? counts.last_read_ns : pending.begun_ns;
    switch (pending.order) {
    case CONNECT:
        while (begun < options.connections && begun - finished < IN_FLIGHT_MAX &&
               (!options.rate || begun < waited * 1e-9 * options.rate))
            begin_connection(&connections[begun++]);
        if (finished == options.connections)
            answer("connect");
        break;
    case SETTLE:
        if (now - last > pending.limit_ns)
            answer("settle");
        break;
    case WAIT:
        if (counts.reached + counts.lost >= options.connections
                ? now - last > SURPLUS_NS
                : now - last > pending.limit_ns)
            answer("wait");
        break;
    case LARGE:
        if (counts.large_reached + begun - open_now >= options.connections ||
            waited > pending.limit_ns)
            answer("large");
        break;
    case CLOSED:
        if (open_now == 0 || waited > pending.limit_ns)
            answer("closed");
        break;
    case NONE:
        break;
    }
}

/* Read commands; returns 0 at the end of input. */
static int read_orders(void) {
    static char text[4096];
    static size_t used;
    ssize_t got = read(0, text + used, sizeof text - used - 1);
    if (got <= 0)
        return 0;
    used += got;
    text[used] = 0;
    for (char *end; (end = strchr(text, '\n'));) {
        *end = 0;
        obey(text);
        used -= end + 1 - text;
        memmove(text, end + 1, used + 1);
    }
    return 1;
}

static void read_options(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(name, "--stalled"))
            options.stalled = 1;
        else if (!strcmp(name, "--spin"))
            options.spin = 1;
        else if (!strcmp(name, "--eager"))
            options.eager = 1;
        else if (!strcmp(name, "--deflate"))
            options.deflate = 1;
        else if (!strcmp(name, "--large"))
            options.large = atoll(value), i++;
        else if (!strcmp(name, "--port"))
            options.port = atoi(value), i++;
        else if (!strcmp(name, "--connections"))
            options.connections = atoi(value), i++;
        else if (!strcmp(name, "--rate"))
            options.rate = atof(value), i++;
        else if (!strcmp(name, "--path"))
            options.path = value, i++;
        else if (!strcmp(name, "--subscribe"))
            options.subscribe = value, i++;
        else if (!strcmp(name, "--ack"))
            choose_ack_mode(value), i++;
        else if (!strcmp(name, "--stamp"))
            options.stamp = value, i++;
        else {
            fprintf(stderr, "receiver: unknown option %s\n", name);
            exit(64);
        }
    }
    options.eager = options.eager && options.subscribe;
    if (options.port <= 0 || options.connections <= 0 || options.connections > CONNECTIONS_MAX) {
        fprintf(stderr, "receiver: --port and --connections (1 to %d) are needed\n",
                CONNECTIONS_MAX);
        exit(64);
    }
}

int main(int argc, char **argv) {
    read_options(argc, argv);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    connections = calloc(options.connections, sizeof *connections);
    poller = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[256];
    epoll_ctl(poller, EPOLL_CTL_ADD, 0, &event);
    for (;;) {
        int wait_ms = options.spin && pending.order == WAIT ? 0 : pending.order == NONE ? -1 : pending.order == CONNECT ? 1 : 10;
        int ready = epoll_wait(poller, events, 256, wait_ms);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c) {
                if (!read_orders())
                    return 0;
            } else if (c->state == CONNECTING) {
                send_request(c);
            } else if (c->state != ENDED) {
                read_some(c);
            }
        }
        progress();
    }
}
