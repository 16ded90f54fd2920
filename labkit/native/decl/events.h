/* What the event feed can say. Literals only: read by the C core, by cffi, and by labkit/trace/events.py,
 * which gives each kind the names and units of its fields a..e. */

/* kinds */
#define EV_KICK_TRAP 1     /* a value, b width_bytes, c port */
#define EV_KICK_IGNORED 2  /* a value, b IGNORED_* */
#define EV_KICK_EVENTFD 3  /* a kicks, b synthetic, c forwarded */
#define EV_QUEUE_NOTIFY 4  /* a RUN_*, b avail.idx, c last_avail, d used.idx before the run: rule R14 */
#define EV_REQUEST 5       /* a type, b sector, c bytes, d status, e head */
#define EV_INTERRUPT 6     /* a vector, b IRQ_WAY_* */
#define EV_REGISTER 7      /* a offset, b width_bytes, c value, d write */
#define EV_STATUS 8        /* a from, b to */
#define EV_ASSIGN 9        /* a port, b value, c fd, d errno */
#define EV_DEASSIGN 10     /* a port, b value, c fd, d errno */
#define EV_ATTACH 11       /* a fd: the iothread watches it */
#define EV_DETACH 12       /* a fd */
#define EV_DRAIN 13        /* a kicks, b synthetic, c forwarded: found by test-and-clear in the stopping thread */
#define EV_OWNER 14        /* a OWNER_* from, b OWNER_* to, c rule, d CAUSE_*, e fd */
#define EV_RUNSTATE 15     /* a STATE_* from, b STATE_* to */
#define EV_STEP 16         /* a command, b vcpu, c arg0, d arg1 */
#define EV_STEP_DONE 17    /* a command, b vcpu, c agent status, d result0, e arg0 */
#define EV_PCI_WRITE 18    /* a offset, b width_bytes, c value */
#define EV_BROKEN 19       /* a BROKEN_*, b detail, c last_avail, d in_flight */
#define EV_CRASH 20        /* a CRASH_*, b rip, c vcpu */
#define EV_EXIT 21         /* a exit_code */
#define EV_DEVICE_RESET 22
#define EV_ROLL_BACK 23    /* a queues undone, b errno */
#define EV_CLOSE_FD 24     /* a fd */
#define EV_FORWARD 25      /* a value, b width_bytes, c fd: a trapped kick written to the host notifier, its owner serves it */
#define EV_SIGNAL 26       /* a fd: START signals a queue when all are assigned */
#define EV_FAULT 27        /* a FAULT_CALL_*, b errno: a call that was made to fail */
#define EV_BACKEND 28      /* a 1: it has the queue, 0: it gave it back, b last_avail, c in_flight, d broken */
#define EV_FRAME 29        /* a FRAME_*, b bytes */
#define EV_CHAIN 30        /* a head, b bytes the device read, c bytes it wrote */
#define EV_CONFIG_CHANGED 31 /* a vector, b IRQ_WAY_* */
#define EV_INTX 32         /* a level */
#define EV_PLUG 33         /* a 1: the device came, at power-on, 0: it went, b flags, c COMMAND */
#define EV_COMMAND 34      /* a from, b to: PCI COMMAND, whoever changed it */
#define EV_MSIX 35         /* a from, b to: MSI-X on */
#define EV_FLAGS 36        /* a from, b to: the property, and BUS_MASTER_BUG */
#define EV_LOADED 37       /* a GUEST_FEATURES, b ISR, c QUEUE_SEL, d config vector, e broken: from a saved state */
#define EV_QUEUE_LOADED 38 /* a pfn, b vector, c last_avail, d avail_idx, e used_idx */
#define EV_GATE 39         /* a GATE_*, b round, c pages: how far the machine has come on its way to another host */
#define EV_WANTS_LOCK 40   /* it is about to take a lock; told only while somebody is held or scheduled */
#define EV_WOKEN 41        /* a ready fds: a loop was woken, and has not looked yet; told likewise */
#define EV_EMPTY 42        /* a last_avail: a run has found the ring empty, and has not asked for kicks yet; told likewise */

#define NO_INDEX 0x10000 /* of a ring outside RAM: no avail.idx or used.idx is that large */
#define BIRTH_COUNT 1    /* of a notifier's eventfd: a synthetic kick (R3) */

/* actors: which thread */
#define ACTOR_HOST 0
#define ACTOR_OWNER 1
#define ACTOR_IOTHREAD 2
#define ACTOR_BACKEND 3
#define ACTOR_VCPU0 16

/* who runs a queue */
#define RUN_TRAP 1
#define RUN_IOTHREAD 2
#define RUN_DRAIN 3
#define RUN_RESUME 4
#define RUN_BACKEND 5
#define RUN_HOST 6 /* something on the host's side changed: a frame came, text was typed */

/* why a kick was ignored (R12) */
#define IGNORED_NO_RING 1
#define IGNORED_INDEX 2
#define IGNORED_BROKEN 3
#define IGNORED_DISABLED 4 /* bus-master is off, where the rules heed it */

/* how an interrupt went */
#define IRQ_WAY_NONE 0
#define IRQ_WAY_MSIX 1
#define IRQ_WAY_MASKED 2
#define IRQ_WAY_ISR 3
#define IRQ_WAY_INTX 4

/* owners of a notifier */
#define OWNER_NONE 0
#define OWNER_VMM 1
#define OWNER_BACKEND 2

/* what moved an owner */
#define CAUSE_DRIVER_OK 1
#define CAUSE_DRIVER_NOT_OK 2
#define CAUSE_PFN_ZERO 3
#define CAUSE_DEVICE_RESET 4
#define CAUSE_BUS_MASTER_OFF 5
#define CAUSE_BACKEND_TAKES 6
#define CAUSE_RESUME 7
#define CAUSE_PAUSE 8
#define CAUSE_EXIT 9
#define CAUSE_STATUS_ZERO 10
#define CAUSE_BACKEND_GIVES 11
#define CAUSE_GRAB 12
#define CAUSE_RELEASE 13
#define CAUSE_BUS_MASTER_ON 14
#define CAUSE_BAR0_MOVED 15
#define CAUSE_KICK 16
#define CAUSE_ASSIGN_FAILED 17
#define CAUSE_LOAD 18

/* run states */
#define STATE_PAUSED 0
#define STATE_RUNNING 1
#define STATE_CRASHED 2
#define STATE_EXITED 3
#define STATE_CLOSED 4
#define STATE_MIGRATED 5

/* how a guest broke its ring */
#define BROKEN_RING_OUTSIDE 1
#define BROKEN_AVAIL_JUMPED 2
#define BROKEN_HEAD 3
#define BROKEN_NEXT 4
#define BROKEN_LOOP 5
#define BROKEN_ORDER 6
#define BROKEN_EMPTY_BUFFER 7
#define BROKEN_BUFFER_OUTSIDE 8
#define BROKEN_INDIRECT 9
#define BROKEN_REQUEST_HEADER 10
#define BROKEN_DEVICE_CODE 11 /* the device's own code failed: its fault, not the guest's */

/* why a vCPU cannot go on; the detail is the back end's own number */
#define CRASH_TRIPLE_FAULT 1
#define CRASH_BAD_STATE 2 /* the CPU refused the guest's state */
#define CRASH_CANNOT_EXECUTE 3 /* an instruction the back end cannot execute */
#define CRASH_REFUSED 4 /* a system call failed: detail is its errno */
#define CRASH_OTHER 5

/* which way a frame went, or why it went nowhere */
#define FRAME_SENT 0
#define FRAME_RECEIVED 1
#define FRAME_DROPPED_TO_HOST 2
#define FRAME_DROPPED_TO_GUEST 3
#define FRAME_FILTERED 4

/* which call was made to fail */
#define FAULT_CALL_EVENTFD 1
#define FAULT_CALL_ASSIGN 2
#define FAULT_CALL_DEASSIGN 3

/* gates of a migration: of its source */
#define GATE_CONNECTED 1
#define GATE_HELLO_SENT 2
#define GATE_WELCOME_HEARD 3
#define GATE_ROUND_SENT 4
#define GATE_STOPPED 5
#define GATE_REST_SENT 6
#define GATE_DISK_LET_GO 7
#define GATE_STATE_SENT 8
#define GATE_TAKEN_HEARD 9
#define GATE_YOURS_SENT 10
#define GATE_RUNS_HEARD 11

/* and of its destination */
#define GATE_ACCEPTED 32
#define GATE_HELLO_HEARD 33
#define GATE_BUILT 34
#define GATE_WELCOME_SENT 35
#define GATE_ROUND_STORED 36
#define GATE_STATE_HEARD 37
#define GATE_LOADED 38
#define GATE_DISK_TAKEN 39
#define GATE_TAKEN_SENT 40
#define GATE_YOURS_HEARD 41
#define GATE_RUNS_SENT 42
#define GATE_RUNS 43

/* what the core can be told to do wrong, for the museum */
#define MUTATE_SIGNED_INDEX 1      /* 17: the index of a kick is compared as a signed number */
#define MUTATE_TRAP_BYPASSES 2     /* 8: a trapped kick runs the device although another owns the queue */
#define MUTATE_NO_GENERATION 4     /* 22: a handler in flight runs although it was detached */
#define MUTATE_TRAP_DROPS 16       /* 7: a trapped kick of a queue that a backend has is thrown away */
#define MUTATE_NO_RECHECK 4096      /* 28: who asks for kicks does not look once more */
#define MUTATE_RUNS_WITHOUT_RING 1048576 /* 30: a queue that was never set up is run all the same */
#define MUTATE_STOP_WAITS 2097152        /* 19: who stops a notifier waits, with the big lock, until its handler is done */
#define MUTATE_LOOKS_EARLY 4194304       /* 26: the driver's wish for interrupts is read before used.idx is written */
