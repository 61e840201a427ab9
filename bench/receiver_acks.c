/*
 * TCP acknowledgements of the load receiver's sockets: their mode, and their number.
 *
 * Linux acknowledges small segments in one of two ways. A socket that has only received sends
 * an acknowledgement for each segment, from the reader's own recv(2): the receiver's core pays
 * for it, and for its way through the sender's TCP. A socket that has answered (subscribe, pong)
 * is in delayed mode: it acknowledges every second segment, within the sender's send(2) if the
 * two are longer than the longest segment before, else from recv(2); a single one is
 * acknowledged by a timer of 40 ms. A timer that fires ends the delayed mode, an answer begins it
 * again. The first 16 segments after a pause are acknowledged within send(2) in quick mode.
 *
 * --ack quick and --ack delayed hold every socket in one of them. The proof is counted by the
 * kernel, per socket (TCP_INFO): segments without data that were sent, and, of a sample of the
 * reads, those that recv(2) sent itself. /proc/net/netstat counts those of timers.
 */
#define _GNU_SOURCE
#include "receiver.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define SAMPLE_READS 61            /* one read in 61; all, for fewer connections */
#define TIMER_MAY_FIRE_NS 20000000 /* half of Linux' shortest delay */

static const char *const names[] = {[ACK_QUICK] = "quick", [ACK_DELAYED] = "delayed"};
static uint64_t reads, sampled_reads, sampled_acks;

void choose_ack_mode(const char *name) {
    for (int mode = ACK_QUICK; mode <= ACK_DELAYED; mode++)
        if (!strcmp(name, names[mode]))
            options.ack = mode;
    if (!options.ack) {
        fprintf(stderr, "receiver: --ack is quick or delayed, not %s\n", name);
        exit(64);
    }
}

/* Begin the mode of --ack; without --ack the kernel's own choice remains. */
void set_ack_mode(struct connection *c) {
    int quick = options.ack == ACK_QUICK;
    if (options.ack)
        setsockopt(c->fd, IPPROTO_TCP, TCP_QUICKACK, &quick, sizeof quick);
}

static struct tcp_info info_of(const struct connection *c) {
    struct tcp_info info = {0};
    socklen_t size = sizeof info;
    getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &info, &size);
    return info;
}

static uint64_t acks_of(const struct connection *c) {
    struct tcp_info info = info_of(c);
    return info.tcpi_segs_out - info.tcpi_data_segs_out;
}

/* recv(2) in the mode of --ack. */
ssize_t receive(struct connection *c, void *buffer, size_t room) {
    if (!options.ack)
        return recv(c->fd, buffer, room, 0);
    int64_t now = now_ns();
    if (options.ack == ACK_DELAYED && now - c->read_ns >= TIMER_MAY_FIRE_NS)
        set_ack_mode(c);
    c->read_ns = now;
    if (++reads % SAMPLE_READS && options.connections > SAMPLE_READS)
        return recv(c->fd, buffer, room, 0);
    uint64_t before = acks_of(c);
    ssize_t got = recv(c->fd, buffer, room, 0);
    sampled_acks += acks_of(c) - before;
    sampled_reads++;
    return got;
}

void forget_acks(int begun) {
    reads = sampled_reads = sampled_acks = 0;
    for (int i = 0; options.ack && i < begun; i++) {
        struct connection *c = &connections[i];
        if (c->state != OPEN)
            continue;
        set_ack_mode(c);
        struct tcp_info info = info_of(c);
        c->segments = info.tcpi_data_segs_in;
        c->acks = info.tcpi_segs_out - info.tcpi_data_segs_out;
    }
}

/* Print the counts of the open connections as a member of a JSON object, a comma before it.
 * segment_bytes is the mean of the kernel's estimates of a whole segment's length. */
void print_acks(void) {
    uint64_t segments = 0, acks = 0, mss = 0, open = 0;
    for (int i = 0; i < options.connections; i++) {
        const struct connection *c = &connections[i];
        if (c->state != OPEN)
            continue;
        struct tcp_info info = info_of(c);
        segments += info.tcpi_data_segs_in - c->segments;
        acks += info.tcpi_segs_out - info.tcpi_data_segs_out - c->acks;
        mss += info.tcpi_rcv_mss;
        open++;
    }
    printf(",\"acks\":{\"mode\":\"%s\",\"segments\":%lu,\"sent\":%lu,\"sampled_reads\":%lu,"
           "\"sampled_acks\":%lu,\"segment_bytes\":%lu}",
           names[options.ack], segments, acks, sampled_reads, sampled_acks, open ? mss / open : 0);
}
