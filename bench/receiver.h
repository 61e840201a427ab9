/* Declarations shared by the parts of the load receiver: receiver.c (connections and commands),
 * receiver_frames.c (frames and counts) and receiver_acks.c (TCP acknowledgements). */
#include <stdint.h>
#include <stddef.h>
#include <sys/types.h>

#define CONNECTIONS_MAX 10000
#define CLOSE_CODES 5000
#define READ_BYTES (256 * 1024)
#define FRAME_WHOLE_MAX 16384 /* larger frames are counted, never kept or read */

/* The example pair of RFC 6455, section 1.3: any server must give this answer. */
#define SAMPLE_KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define SAMPLE_ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

enum ack_mode { ACK_KERNEL, ACK_QUICK, ACK_DELAYED }; /* ACK_KERNEL: as the kernel decides */
enum state { UNUSED, CONNECTING, SHAKING, OPEN, ENDED };

struct connection {
    int fd;
    enum state state;
    uint64_t messages, bytes; /* since `start`; payload bytes */
    uint64_t skip;            /* bytes of a large frame still to come */
    uint64_t large, after;    /* with --large: such frames received whole; messages since */
    int is_large;             /* the skipped frame is one of those */
    uint8_t *carry;           /* the beginning of a frame (or head) not yet complete */
    uint32_t carried;
    int64_t read_ns;          /* time of the last read; with --ack only */
    uint64_t segments, acks;  /* at `start`: received with data; sent without; with --ack only */
};

struct options {
    int port, connections, stalled, eager, spin, deflate;
    enum ack_mode ack;
    uint64_t large;
    double rate;
    const char *path, *subscribe, *stamp;
};

struct counts {
    uint64_t target;             /* messages wanted of each connection, 0: none */
    int reached, lost;           /* connections that have them; that ended before */
    uint64_t messages, bytes;
    int64_t begun_ns, first_ns, last_ns, last_read_ns;
    int64_t asked_ns;            /* when the first subscribe text was sent */
    int64_t large_first_ns, large_last_ns;
    uint64_t large_frames, large_least, large_most; /* whole ones; their sizes */
    int large_reached;           /* connections that have one */
    int64_t cpu_begun_ns;
    uint32_t closes[CLOSE_CODES]; /* close frames received, by code; 1005: without one */
    uint32_t cut;                /* connections that ended with no close frame */
    uint64_t pings, reads;
};

extern struct options options;
extern struct counts counts;
extern struct connection *connections;

int64_t now_ns(void);
void end_connection(struct connection *c, int code); /* -1: no close frame was seen */
void keep_rest(struct connection *c, const uint8_t *data, int length);
void send_frame(struct connection *c, int opcode, const void *payload, size_t length);
void parse_frames(struct connection *c, uint8_t *data, int64_t length);
void forget_counts(int begun);
void choose_ack_mode(const char *name);
void set_ack_mode(struct connection *c);
ssize_t receive(struct connection *c, void *buffer, size_t room);
void forget_acks(int begun);
void print_acks(void);
void forget_latencies(void);
void begin_window(void);
void end_window(void);
void set_target(int begun, uint64_t target);
void print_counts(void);
