/* stacks.h - what the threads of this process are doing: for a watchdog that has found one of them hanging.
 *
 *   thread 4711 (engine), state S
 *   /usr/bin/proa(proa_a2a_wait+0x91)[0x55d0c8a4b0c1]
 *   /usr/bin/proa(+0x4f2d0)[0x55d0c8a1f2d0]                   a function that no other file sees: addr2line -fe /usr/bin/proa 0x4f2d0
 *
 * A signal (SIGRTMIN + 3) is sent to one thread after the other; its handler writes the thread's stack by itself. So nothing is read
 * that may change, no lock is taken that a hanging thread may hold, nothing is allocated, and a thread that does not answer costs its
 * time and no more.
 *
 * Any thread may call, one at a time.
 */
#ifndef PROA_BASE_STACKS_H
#define PROA_BASE_STACKS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Once in a process, before what may hang: installs the handler, and loads what it needs. */
void proa_stacks_prepare(void);

/* Writes the stacks of all threads to a file, pipe or terminal; each one has each_us to answer. Without proa_stacks_prepare, only the
 * caller's. */
void proa_stacks_write(int fd, int64_t each_us);

/* Of the calling thread, for proa_stacks_is_asleep. */
pid_t proa_stacks_thread(void);

/* Whether a thread of this process sleeps in a system call that reads and writes nothing: it waits for another thread or for a time.
 * False also when the system does not tell. A thread that computes, waits for a core, for a page or for a file does not sleep. */
bool proa_stacks_is_asleep(pid_t thread);

/* "engine" and the like, up to 15 letters: how the calling thread is called from now on, here and in ps and gdb. */
void proa_stacks_name_thread(const char *name);

#endif
