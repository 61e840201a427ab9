/* Frames, counts and latencies of the load receiver; receiver.h describes the fields. */
#define _GNU_SOURCE
#include "receiver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

/* Latencies in two histograms: to the µs below 100 ms, to the ms up to 100 s. */
#define BUCKETS 100000
static uint64_t fine[BUCKETS], coarse[BUCKETS], stamped;
static int64_t slowest_us;
static int64_t window_begin_ns, window_end_ns = INT64_MAX; /* range of send times that count */

int64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static int64_t cpu_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

void keep_rest(struct connection *c, const uint8_t *data, int length) {
    if (length > FRAME_WHOLE_MAX) {
        fprintf(stderr, "receiver: a head of more than %d bytes\n", FRAME_WHOLE_MAX);
        end_connection(c, -1);
        return;
    }
    if (!c->carry)
        c->carry = malloc(FRAME_WHOLE_MAX);
    memcpy(c->carry, data, length);
    c->carried = length;
}

/* Send one masked frame of up to 65,535 bytes. */
void send_frame(struct connection *c, int opcode, const void *payload, size_t length) {
    static const uint8_t mask[4] = {0x5a, 0xc3, 0x17, 0x8e};
    static uint8_t frame[65535 + 8];
    size_t at = 2;
    frame[0] = 0x80 | opcode;
    if (length < 126) {
        frame[1] = 0x80 | length;
    } else {
        frame[1] = 0x80 | 126;
        frame[2] = length >> 8;
        frame[3] = length;
        at = 4;
    }
    memcpy(frame + at, mask, 4);
    for (size_t i = 0; i < length; i++)
        frame[at + 4 + i] = ((const uint8_t *)payload)[i] ^ mask[i & 3];
    /* Small and rare: a socket that refuses it belongs to a server that never reads. */
    if (send(c->fd, frame, at + 4 + length, MSG_NOSIGNAL) != (ssize_t)(at + 4 + length))
        fprintf(stderr, "receiver: the socket accepted only a part of a frame\n");
    set_ack_mode(c); /* an answer puts the socket into delayed mode */
}

static void note_latency(const uint8_t *payload, size_t length, int64_t now) {
    size_t key = strlen(options.stamp);
    const uint8_t *at = memmem(payload, length, options.stamp, key);
    if (!at || at + key + 19 > payload + length)
        return;
    int64_t sent = 0;
    for (int i = 0; i < 19; i++)
        sent = sent * 10 + (at[key + i] - '0');
    if (sent < window_begin_ns || sent >= window_end_ns)
        return;
    int64_t us = (now - sent) / 1000;
    if (us < 0)
        us = 0;
    stamped++;
    if (us > slowest_us)
        slowest_us = us;
    if (us < BUCKETS)
        fine[us]++;
    else
        coarse[us / 1000 < BUCKETS ? us / 1000 : BUCKETS - 1]++;
}

static void note_message(struct connection *c, uint64_t length, int last, int64_t now) {
    c->bytes += length;
    counts.bytes += length;
    if (!last)
        return;
    if (!counts.messages++)
        counts.first_ns = now;
    counts.last_ns = now;
    c->after++;
    if (++c->messages == counts.target)
        counts.reached++;
}

static void close_frame(struct connection *c, const uint8_t *payload, size_t length) {
    send_frame(c, 8, payload, length < 2 ? 0 : 2);
    shutdown(c->fd, SHUT_WR);
    end_connection(c, length < 2 ? 1005 : payload[0] << 8 | payload[1]);
}

/* A frame of --large bytes or more is complete. */
static void note_large(struct connection *c, int64_t now) {
    c->is_large = 0;
    c->after = 0;
    if (!counts.large_frames++)
        counts.large_first_ns = now;
    counts.large_last_ns = now;
    if (!c->large++)
        counts.large_reached++;
}

static void begin_large(struct connection *c, uint64_t size) {
    c->is_large = 1;
    if (!counts.large_least || size < counts.large_least)
        counts.large_least = size;
    if (size > counts.large_most)
        counts.large_most = size;
}

/* Count all frames in `data`; an incomplete one is kept for later. */
void parse_frames(struct connection *c, uint8_t *data, int64_t length) {
    int64_t now = counts.last_read_ns;
    while (length > 0) {
        if (c->skip) {
            int64_t step = (int64_t)c->skip < length ? (int64_t)c->skip : length;
            c->skip -= step;
            data += step;
            length -= step;
            if (!c->skip && c->is_large)
                note_large(c, now);
            continue;
        }
        uint64_t size = length < 2 ? 0 : data[1] & 127;
        int head = size == 127 ? 10 : size == 126 ? 4 : 2;
        if (length < head)
            break;
        if (size == 126)
            size = data[2] << 8 | data[3];
        else if (size == 127)
            for (int i = size = 0; i < 8; i++)
                size = size << 8 | data[2 + i];
        int opcode = data[0] & 15;
        if (head + size > FRAME_WHOLE_MAX) {
            c->skip = head + size;
            if (opcode < 8 && options.large && size >= options.large)
                begin_large(c, size);
        } else if (length < (int64_t)(head + size)) {
            break;
        } else if (opcode < 8 && options.stamp) {
            note_latency(data + head, size, now);
        }
        if (opcode < 8) {
            note_message(c, size, data[0] & 0x80, now);
        } else if (opcode == 8) {
            close_frame(c, data + head, size);
            return;
        } else if (opcode == 9) {
            counts.pings++;
            send_frame(c, 10, data + head, size);
        }
        if (!c->skip) {
            data += head + size;
            length -= head + size;
        }
    }
    if (length > 0)
        keep_rest(c, data, length);
}

void forget_latencies(void) {
    memset(fine, 0, sizeof fine);
    memset(coarse, 0, sizeof coarse);
    stamped = slowest_us = 0;
}

void begin_window(void) {
    forget_latencies();
    window_begin_ns = now_ns();
    window_end_ns = INT64_MAX;
}

void end_window(void) {
    window_end_ns = now_ns();
}

void forget_counts(int begun) {
    int64_t last_read_ns = counts.last_read_ns;
    memset(&counts, 0, sizeof counts);
    forget_latencies();
    counts.last_read_ns = last_read_ns;
    counts.begun_ns = now_ns();
    counts.cpu_begun_ns = cpu_ns();
    for (int i = 0; i < begun; i++)
        connections[i].messages = connections[i].bytes = connections[i].large = 0;
    forget_acks(begun);
}

/* From now on count the connections that have `target` messages, or have ended. */
void set_target(int begun, uint64_t target) {
    counts.target = target;
    counts.reached = 0;
    counts.lost = options.connections - begun;
    for (int i = 0; i < begun; i++) {
        if (connections[i].messages >= target)
            counts.reached++;
        else if (connections[i].state == ENDED)
            counts.lost++;
    }
}

static int64_t percentile_us(double share) {
    uint64_t wanted = stamped * share, seen = 0;
    for (int i = 0; i < BUCKETS; i++)
        if ((seen += fine[i]) > wanted)
            return i;
    for (int i = 0; i < BUCKETS; i++)
        if ((seen += coarse[i]) > wanted)
            return i * 1000LL;
    return slowest_us;
}

static void print_large(void) {
    uint64_t least = UINT64_MAX, most = 0;
    for (int i = 0; i < options.connections; i++) {
        uint64_t after = connections[i].large ? connections[i].after : 0;
        least = after < least ? after : least;
        most = after > most ? after : most;
    }
    printf(",\"large\":{\"connections\":%d,\"frames\":%lu,\"bytes_min\":%lu,\"bytes_max\":%lu,"
           "\"first_s\":%.6f,\"last_s\":%.6f,\"after_min\":%lu,\"after_max\":%lu}",
           counts.large_reached, counts.large_frames, counts.large_least, counts.large_most,
           counts.large_frames ? (counts.large_first_ns - counts.asked_ns) / 1e9 : 0.0,
           counts.large_frames ? (counts.large_last_ns - counts.asked_ns) / 1e9 : 0.0, least, most);
}

/* Print the counts as members of a JSON object, each with a comma before it. */
void print_counts(void) {
    uint64_t least = UINT64_MAX, most = 0;
    for (int i = 0; i < options.connections; i++) {
        uint64_t messages = connections[i].messages;
        least = messages < least ? messages : least;
        most = messages > most ? messages : most;
    }
    printf(",\"messages\":%lu,\"bytes\":%lu,\"min\":%lu,\"max\":%lu,\"pings\":%lu,\"reads\":%lu", counts.messages,
           counts.bytes, least, most, counts.pings, counts.reads);
    printf(",\"first_s\":%.6f,\"last_s\":%.6f,\"cpu_s\":%.6f,\"cut\":%u,\"closes\":{",
           counts.messages ? (counts.first_ns - counts.begun_ns) / 1e9 : 0.0,
           counts.messages ? (counts.last_ns - counts.begun_ns) / 1e9 : 0.0,
           (cpu_ns() - counts.cpu_begun_ns) / 1e9, counts.cut);
    for (int code = 0, any = 0; code < CLOSE_CODES; code++)
        if (counts.closes[code])
            printf("%s\"%d\":%u", any++ ? "," : "", code, counts.closes[code]);
    printf("}");
    if (stamped)
        printf(",\"latency_us\":{\"count\":%lu,\"p50\":%ld,\"p90\":%ld,\"p99\":%ld,\"p999\":%ld,"
               "\"max\":%ld}",
               stamped, percentile_us(0.5), percentile_us(0.9), percentile_us(0.99),
               percentile_us(0.999), slowest_us);
    if (options.large)
        print_large();
    if (options.ack)
        print_acks();
}
