/* link_fixture.h - two ends of a link on one loop, in one thread, for tests: each step runs the loop until a condition holds or its
 * time is over. Also raw sockets, for peers that are no link, and the log lines that were written meanwhile. */
#ifndef PROA_TESTS_LINK_FIXTURE_H
#define PROA_TESTS_LINK_FIXTURE_H

#include "net/link_handshake.h"

#define LINK_KEY "0123456789abcdef0123456789abcdef"

/* One end, as its hooks see it. */
typedef struct link_end {
    proa_link *link; /* NULL before `up` (accepted) and after `down` */
    int ups, downs, messages;
    uint64_t bytes; /* of all messages */
    uint16_t type;  /* of the latest */
    proa_buf body;  /* of the latest, when keep */
    bool keep;
    bool echo;           /* messages are sent back */
    bool close_on_up;    /* the hooks close the link */
    bool close_on_first; /* message */
    bool broken;         /* a hook could not do what it was to do: the run fails */
    proa_error why;
    int64_t down_us;
} link_end;

typedef struct link_fixture {
    proa_loop *loop;
    proa_listener *listener;
    proa_link_security security; /* of both ends, unless a test changes it in between */
    link_end accepted;           /* the latest */
    link_end dialled;
    int log_fd; /* what is logged while the loop runs */
    int saved_stderr;
} link_fixture;

typedef bool (*link_condition)(const link_fixture *f);

proa_link_identity link_identity(const char *role);

void link_fixture_open(link_fixture *f, const proa_link_security *security);
void link_fixture_listen(link_fixture *f, const char *host);
void link_fixture_dial(link_fixture *f, const char *host); /* the listener's port there */
void link_fixture_dial_port(link_fixture *f, const char *host, int port);
void link_fixture_connect(link_fixture *f); /* listen, dial, both up */
void link_fixture_close(link_fixture *f);

/* Runs the loop until the condition holds (NULL: never); false after `seconds`. */
bool link_fixture_run(link_fixture *f, link_condition condition, double seconds);

bool link_both_up(const link_fixture *f);
bool link_dialled_down(const link_fixture *f);
bool link_accepted_down(const link_fixture *f);

/* How often `text` has been logged. */
int link_fixture_logged(link_fixture *f, const char *text);

/* A socket connected to the listener, non-blocking. */
int link_raw_connect(const link_fixture *f);
/* Shakes hands over it as a link would, a byte at a time, with LINK_KEY; true when the listener's end is up. */
bool link_raw_handshake(link_fixture *f, int fd, proa_handshake *handshake, const proa_link_identity *self);
void link_raw_send(int fd, const void *bytes, size_t length);
/* Runs the loop until the other end has closed `fd`; what it sent is appended to `out` (may be NULL). False after `seconds`. */
bool link_raw_closed(link_fixture *f, int fd, proa_buf *out, double seconds);

#endif
