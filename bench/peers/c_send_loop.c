/*
 * The lower bound of the cost: a C loop that calls send(2) once per message and subscriber.
 *
 *   c_send_loop --port P --schedule FILE [--stamp KEY]
 *
 * FILE is a schedule (bench/workload.py): for each message its due time in µs
 * (8 bytes), its length (4 bytes), both little-endian, and its payload. Frames are made
 * before the clock starts. "go" on standard input plays the schedule once to all
 * subscribers; "ready" and "done" are printed. With --stamp KEY, the 19 digits after
 * the text KEY of a payload become CLOCK_MONOTONIC in ns just before its first send.
 *
 * TCP_NODELAY, no batching, no compression. Bytes that a socket refuses are lost and counted,
 * and that subscriber ends: keeping them for later is the task of the real servers.
 * Only the handshake key of RFC 6455's own example is answered, which the receiver sends.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define SUBSCRIBERS_MAX 10000
#define SAMPLE_KEY "dGhlIHNhbXBsZSBub25jZQ=="
static const char ANSWER[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                             "Connection: Upgrade\r\n"
                             "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

struct message {
    uint64_t due_us;
    uint32_t length; /* of the whole frame */
    uint8_t *frame, *stamp;
};

static struct message *messages;
static size_t message_count, next_message;
static int subscribers[SUBSCRIBERS_MAX], subscriber_count;
static uint64_t refused;
static int64_t origin_ns;

static int64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static uint8_t *make_frame(const uint8_t *payload, uint32_t length, uint32_t *size) {
    uint8_t *frame = malloc(length + 10);
    uint32_t head = length < 126 ? 2 : length < 65536 ? 4 : 10;
    frame[0] = 0x81;
    frame[1] = head == 2 ? length : head == 4 ? 126 : 127;
    for (uint32_t i = 2; i < head; i++)
        frame[i] = (uint64_t)length >> 8 * (head - 1 - i);
    memcpy(frame + head, payload, length);
    *size = head + length;
    return frame;
}

static void load_schedule(const char *path, const char *key) {
    FILE *file = fopen(path, "rb");
    if (!file)
        fail(path);
    uint8_t head[12];
    size_t room = 0;
    while (fread(head, 1, 12, file) == 12) {
        struct message message;
        uint32_t length;
        memcpy(&message.due_us, head, 8);
        memcpy(&length, head + 8, 4);
        uint8_t *payload = malloc(length + 1);
        if (fread(payload, 1, length, file) != length)
            fail("a schedule that ends inside a message");
        message.frame = make_frame(payload, length, &message.length);
        message.stamp = key ? memmem(message.frame, message.length, key, strlen(key)) : NULL;
        if (message.stamp)
            message.stamp += strlen(key);
        free(payload);
        if (message_count == room)
            messages = realloc(messages, (room = room * 2 + 64) * sizeof *messages);
        messages[message_count++] = message;
    }
    fclose(file);
}

static void accept_all(int listener, int poller) {
    int one = 1, fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    }
}

static void drop(int fd) {
    for (int i = 0; i < subscriber_count; i++)
        if (subscribers[i] == fd) {
            subscribers[i] = subscribers[--subscriber_count];
            break;
        }
    close(fd);
}

/* A request head (the receiver sends it in one piece), or frames that are ignored. */
static void read_peer(int fd) {
    char data[65536];
    ssize_t got = recv(fd, data, sizeof data - 1, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN)
            drop(fd);
        return;
    }
    data[got] = 0;
    if (memcmp(data, "GET ", 4))
        return;
    if (!strstr(data, SAMPLE_KEY) || subscriber_count == SUBSCRIBERS_MAX) {
        fprintf(stderr, "c_send_loop: refused a handshake\n");
        close(fd);
        return;
    }
    send(fd, ANSWER, sizeof ANSWER - 1, MSG_NOSIGNAL);
    subscribers[subscriber_count++] = fd;
}

static void fan_out(struct message *message) {
    if (message->stamp) {
        char digits[20];
        snprintf(digits, sizeof digits, "%019ld", now_ns());
        memcpy(message->stamp, digits, 19);
    }
    for (int i = 0; i < subscriber_count; i++) {
        ssize_t sent = send(subscribers[i], message->frame, message->length, MSG_NOSIGNAL);
        if (sent != (ssize_t)message->length) {
            refused++;
            close(subscribers[i]);
            subscribers[i--] = subscribers[--subscriber_count];
        }
    }
}

static void set_timer(int timer) {
    int64_t due = origin_ns + messages[next_message].due_us * 1000LL;
    struct itimerspec at = {.it_value = {due / 1000000000LL, due % 1000000000LL}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
}

static void play_due(int timer) {
    uint64_t fired;
    if (read(timer, &fired, sizeof fired) < 0)
        return;
    while (next_message < message_count &&
           origin_ns + (int64_t)messages[next_message].due_us * 1000 <= now_ns())
        fan_out(&messages[next_message++]);
    if (next_message < message_count) {
        set_timer(timer);
        return;
    }
    if (refused)
        fprintf(stderr, "c_send_loop: %lu messages refused by their sockets\n", refused);
    puts("done");
}

int main(int argc, char **argv) {
    const char *schedule = NULL, *key = NULL;
    int port = 0, one = 1;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--port"))
            port = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--schedule"))
            schedule = argv[i + 1];
        else if (!strcmp(argv[i], "--stamp"))
            key = argv[i + 1];
    }
    if (!port || !schedule) {
        fprintf(stderr, "usage: c_send_loop --port P --schedule FILE [--stamp KEY]\n");
        return 64;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    load_schedule(schedule, key);

    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096))
        fail("c_send_loop: listen");
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), poller = epoll_create1(0);
    int watched[] = {0, listener, timer};
    for (int i = 0; i < 3; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = watched[i]};
        epoll_ctl(poller, EPOLL_CTL_ADD, watched[i], &event);
    }
    puts("ready");
    for (;;) {
        struct epoll_event events[256];
        int ready = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            char line[64];
            if (fd == listener) {
                accept_all(listener, poller);
            } else if (fd == timer) {
                play_due(timer);
            } else if (fd == 0) {
                if (read(0, line, sizeof line) <= 0)
                    return 0;
                next_message = 0;
                origin_ns = now_ns();
                set_timer(timer);
            } else {
                read_peer(fd);
            }
        }
    }
}
