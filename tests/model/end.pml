/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The end of a migration: who has the guest (docs/rdma.txt, "The end").
 *
 * Job: from the last byte of the stream on, everything that two QEMUs, their
 * connections, the user and the operator do, in every order: messages and
 * acknowledgements that are lost, connections that break, QEMUs that crash or
 * are stuck, migrate_cancel and yank at each step.
 * Callers: tests/model/run, once for each of its cases.
 *
 * How to read it.  "C:" names the functions of migration/ that a transition
 * stands for; run checks that they exist.  "QEMU:" names those of QEMU.  An
 * atomic block is what one QEMU does under its big lock or in one handler; all
 * else interleaves.  Time is not modelled: what may take long is what others
 * may overtake, and a deadline is a choice that may be taken at any time.
 *
 * A case comes from the environment, so that one program runs them all: what
 * the two sides are (hands_over ...), what may happen (faults), what is claimed
 * (claims), and which mistake is made on purpose (mutant).
 */
c_decl {
    static int setting(const char *name)
    {
        const char *text = getenv(name);
        return text ? atoi(text) : 0;
    }
}

/* ------------------------------------------------------------- the case */

bool hands_over;    /* both sides have granted HANDOVER */
bool back;          /* the capability return-path */
bool dst_autostart; /* the destination was started without -S */
bool src_stock, dst_stock; /* QEMU's own transport; never with hands_over */
bool early;         /* iWARP: a send completes before it has arrived */

byte faults;
#define MAY_BREAK   (faults & 1)    /* a connection, for good */
#define MAY_CRASH   (faults & 2)    /* either QEMU, or its host */
#define MAY_CANCEL  (faults & 4)    /* migrate_cancel, and yank */
#define MAY_FAIL    (faults & 8)    /* loading, or activating disks */
#define MAY_STICK   (faults & 16)   /* either program; its adapter goes on */
#define MAY_CONT    (faults & 32)   /* "cont" at a destination with -S */
#define MAY_LATE    (faults & 64)   /* all that behind the last look, too */

byte claims;
#define TWO     1   /* never two guests */
#define EARLY   2   /* "completed" only if the destination can run */
#define NONE    4   /* somebody can run on, or nobody said "completed" */
#define WAITS   8   /* every wait ends, or the user can end it */
#define LIES    16  /* "cancelled" only if the guest runs here */
#define ARRIVED 32  /* "completed" only if the last message has arrived */
#define GOAL    64  /* that the named goal cannot be reached: it can */
#define CLAIM(what, holds) assert(!(claims & (what)) || (holds))

byte mutant;
#define COMMITS_LATE    1   /* after START was posted */
#define NEVER_COMMITS   2
#define STARTS_AT_ONCE  3   /* the destination, without START */
#define DISCONNECT_IS_GO 4
#define LATE_CONT       5   /* "cont" behind LOADED starts the guest */
#define TRUSTS_ACK      6   /* completed when START was acknowledged */
#define NO_BELT         7   /* cancel too late: the file gets an error */
#define CANCEL_AFTER_ALL 8  /* behind the commit as before it */
#define REPORT_NEEDED   9   /* a lost report fails what was STARTED */
#define STARTED_FIRST   10  /* STARTED is said before it has loaded */
#define NO_LOOK         11  /* at a source of version 1 */
#define DEAF            12  /* cancel does not end the wait for LOADED */
#define PATIENT_REPORT  13  /* nothing ends the wait for the report */
#define BLIND           14  /* waiting for START, no disconnect is seen */
#define IN_A_SECOND     15  /* version 1: success when a time is over */
#define OPERATOR_HASTY  16  /* -S: starts what says "completed" there */
#define OPERATOR_RASH   17  /* "cont" here while it is undecided there */

byte goal;

/* ------------------------------------------------------- what is observed */

mtype:state = { ACTIVE, CANCELLING, COMPLETED, FAILED, CANCELLED };
mtype:guest = { HERE, COMMITTED, GONE };

mtype:state src_state = ACTIVE, dst_state = ACTIVE;
mtype:guest guest = HERE;   /* migration/rdma-end.c */
bool src_runs, dst_runs;
bool src_ended, src_closed;
bool has_guest;     /* the destination: nothing but a user stops it now */
bool last_arrived;
bool looked;        /* version 1: the destination will not look again */
bool crashed[2];
bool disks_failed;

#define RUNNING (src_state == ACTIVE || src_state == CANCELLING)
/* Between the decision to give up and the last word of it */
#define GIVING_UP ((shut || src_state != ACTIVE) && \
                   src_state != COMPLETED && !src_closed)

/* ------------------------------------------------------------- the fabric */

mtype = { LAST, LOAD_REQUEST, LOADED, START, STARTED, ERROR,
          SHUT_OK, SHUT_BAD };

#define SRC 0
#define DST 1

/* Connections, and the three directions in which something is said */
#define MAIN  0
#define BACK  1
#define TO_DST   0  /* on MAIN */
#define TO_SRC   1  /* on MAIN */
#define REPORT   2  /* to the source, on BACK */

chan wire[3] = [3] of { mtype, bool };  /* posted, not arrived */
chan came[3] = [3] of { mtype, bool };  /* arrived, nobody has looked */
byte unacked[3];    /* sends that have not completed at their sender */
/* Where it matters that a message came and its acknowledgement did not */
bool ack_under_way;
bool error_came[3]; /* ERROR, which counts before what has come earlier */
bool broken[2];     /* nothing gets across, and never will */
bool left[4];       /* a queue pair is gone: LEFT(side, connection) */
bool is_up[2] = true, stuck[2];

#define LEFT(side, conn) left[(side) * 2 + (conn)]
#define CONN(dir) ((dir) == REPORT -> BACK : MAIN)
#define RECEIVER(dir) ((dir) == TO_DST -> DST : SRC)
#define SENDER(dir) ((dir) == TO_DST -> SRC : DST)

/*
 * The end of a connection that one side can find: DISCONNECTED, the heartbeat,
 * a request that is not acknowledged.  What has come before counts first.
 * C: rmig_link_step()
 */
#define OVER(side, conn) (broken[conn] || LEFT(1 - (side), conn))
#define DOWN(side, conn, dir) (empty(came[dir]) && OVER(side, conn))

inline post(dir, what, flag)
{
    /* C: rmig_control_command() rmig_control_answer() */
    if
    :: LEFT(SENDER(dir), CONN(dir)) -> skip
    :: else ->
        wire[dir]!what, flag;
        if
        :: early -> skip
        :: else -> unacked[dir] = unacked[dir] + 1
        fi
    fi
}

/* What is still to be delivered goes with the queue pair */
inline leave(side, conn, dir)
{
    /* C: rmig_link_disconnect() */
    LEFT(side, conn) = true;
    do
    :: nempty(wire[dir]) -> wire[dir]?_, _
    :: empty(wire[dir]) -> break
    od
}

#define DELIVERS(dir) (nempty(wire[dir]) && !broken[CONN(dir)] && \
                       !LEFT(RECEIVER(dir), CONN(dir)))

proctype Fabric()
{
    mtype what;
    bool flag;
    byte dir;

end:
    do
    :: atomic {
        if
        :: DELIVERS(TO_DST) -> dir = TO_DST
        :: DELIVERS(TO_SRC) -> dir = TO_SRC
        :: DELIVERS(REPORT) -> dir = REPORT
        fi;
        wire[dir]?what, flag;
        if
        :: what == ERROR -> error_came[dir] = true
        :: else -> came[dir]!what, flag
        fi;
        last_arrived = last_arrived || what == LAST;
        if
        :: early -> skip
        :: !early && what == LAST && !hands_over -> ack_under_way = true
        :: else -> unacked[dir] = unacked[dir] - 1
        fi;
        what = 0; flag = false; dir = 0
       }
    :: atomic {
        ack_under_way && !broken[MAIN] ->
        ack_under_way = false;
        unacked[TO_DST] = unacked[TO_DST] - 1
       }
    od
}

inline run_here()
{
    src_runs = true;
    CLAIM(TWO, !(dst_runs && is_up[DST]))
}

inline run_there()
{
    dst_runs = true;
    CLAIM(TWO, !(src_runs && is_up[SRC]))
}

/* --------------------------------------------------------------- the source */

bool shut;          /* RMigShutdown of the source: every wait ends */
bool parted;        /* a broken return path does not shut the rest any more */
bool file_error;    /* of to_dst_file */
bool report_error;  /* migrate_has_error() */
bool report_done;   /* the return path's thread has ended */
bool starts;        /* LOADED: the destination starts the guest by itself */

/* C: rmig_control_receive() rmig_control_wait_answer() */
#define SAYS_ERROR(dir) error_came[dir]

/* The destination has disconnected, and nothing else is wrong */
#define LEFT_FIRST (DOWN(SRC, MAIN, TO_SRC) && !broken[MAIN] && \
                    unacked[TO_DST] > 0)

inline commit()
{
    /* C: rdma_source_hand_over() rmig_source_commit() rmig_shutdown_part() */
    atomic {
        if
        :: src_state == ACTIVE && !report_error && !shut ->
            parted = true;
            if
            :: starts && mutant != COMMITS_LATE && mutant != NEVER_COMMITS ->
                guest = COMMITTED
            :: else -> skip
            fi
        :: else -> goto failed
        fi
    }
}

/* The big lock orders this and migrate_cancel */
inline let_go()
{
    /* C: rdma_source_hand_over() rdma_guest_is_gone() */
    atomic {
        if
        :: guest == COMMITTED || src_state == ACTIVE -> guest = GONE
        :: else -> goto failed
        fi
    }
}

proctype Source() provided (is_up[SRC] && !stuck[SRC])
{
    bool flag;

    /* C: rmig_source_end() rmig_stream_flush() */
    atomic {
        if
        :: shut -> goto failed
        :: else -> post(TO_DST, LAST, false)
        fi;
        looked = dst_stock      /* it takes what has come, and starts */
    }
    if
    :: unacked[TO_DST] == 0     /* C: rmig_link_drain() */
    :: mutant == IN_A_SECOND
    :: shut && mutant != DEAF -> goto failed
    :: SAYS_ERROR(TO_SRC) -> goto failed
    /* It left in order; so do those that crash.  C: rmig_source_end() */
    :: LEFT_FIRST && !hands_over && !src_stock
    :: DOWN(SRC, MAIN, TO_SRC) && broken[MAIN] -> goto failed
    :: LEFT_FIRST && (hands_over || (src_stock && !ack_under_way)) ->
        goto failed
    fi;
    atomic {
        if
        :: !hands_over -> goto report
        :: else -> skip
        fi;
        /* C: rmig_source_wait_loaded() rmig_control_wait_answer() */
        post(TO_DST, LOAD_REQUEST, false)
    }
    if
    :: atomic { came[TO_SRC]?LOADED, flag -> starts = flag; flag = false }
    :: shut && mutant != DEAF -> goto failed
    :: SAYS_ERROR(TO_SRC) -> goto failed
    :: DOWN(SRC, MAIN, TO_SRC) -> goto failed
    fi;

    commit();

    /* C: rmig_source_start() */
    atomic { post(TO_DST, START, false) }
    if
    :: mutant == COMMITS_LATE && starts ->
        atomic {
            if
            :: src_state == ACTIVE -> guest = COMMITTED
            :: else -> skip
            fi
        }
    :: else -> skip
    fi;
    if
    :: atomic { came[TO_SRC]?STARTED, flag -> flag = false }
    :: mutant == TRUSTS_ACK && unacked[TO_DST] == 0
    :: shut -> goto failed
    :: SAYS_ERROR(TO_SRC) -> goto failed
    :: DOWN(SRC, MAIN, TO_SRC) -> goto failed
    fi;
    let_go();

report:
    /* QEMU: close_return_path_on_source() */
    atomic {
        !back || report_done ->
        if
        :: report_error && (guest != GONE || mutant == REPORT_NEEDED) ->
            goto failed
        :: else -> skip         /* C: rdma_source_forgive() */
        fi;
        if
        :: file_error -> goto failed
        :: else -> skip
        fi
    }
    /* QEMU: migration_completion_end() */
    atomic {
        CLAIM(EARLY, has_guest);
        CLAIM(ARRIVED, last_arrived || LEFT(DST, MAIN));
        src_state = COMPLETED;
        src_ended = true;
        goto clean_up
    }

failed:
    /* QEMU: migration_completion() */
    atomic {
        flag = false;
        if
        :: src_state == CANCELLING -> skip
        :: else -> src_state = FAILED
        fi;
        /* QEMU: migration_iteration_finish() */
        /* C: rdma_guest_may_run_elsewhere() */
        if
        :: guest == COMMITTED || (guest == GONE && mutant != NO_BELT &&
           mutant != REPORT_NEEDED) -> skip     /* it stays stopped */
        :: else -> run_here()
        fi;
        src_ended = true
    }

clean_up:
    /* QEMU: migration_cleanup()  C: rmig_source_close() */
    atomic {
        if
        :: src_state == CANCELLING ->
            CLAIM(LIES, src_runs);
            src_state = CANCELLED
        :: else -> skip
        fi;
        if
        :: src_state != COMPLETED -> post(TO_DST, ERROR, false)
        :: else -> skip
        fi
    }
    /* C: rmig_link_settle() */
    atomic {
        (unacked[TO_DST] == 0 && empty(wire[TO_DST])) || OVER(SRC, MAIN) ->
        leave(SRC, MAIN, TO_DST);
        LEFT(SRC, BACK) = true;
        src_closed = true
    }
}

/* QEMU: source_return_path_thread() */
proctype ReturnPath() provided (is_up[SRC] && !stuck[SRC])
{
    if
    :: atomic { came[REPORT]?SHUT_OK, _ -> report_done = true }
    :: atomic { came[REPORT]?SHUT_BAD, _ ->
                report_error = true; report_done = true }
    :: atomic {
        /* C: rmig_source_return_failed() rmig_shutdown_because() */
        (shut && mutant != PATIENT_REPORT) || DOWN(SRC, BACK, REPORT) ||
        src_ended ->
        report_error = true;
        if
        :: parted || src_ended -> skip
        :: else -> shut = true
        fi;
        report_done = true
       }
    :: atomic {
        /* RMIG_REPORT_MS; C: rmig_control_expect() */
        guest == GONE && mutant != PATIENT_REPORT ->
        report_error = true; report_done = true
       }
    fi
}

/* migrate_cancel.  QEMU: migration_cancel() */
inline cancel()
{
    if
    :: guest != HERE && RUNNING && mutant != CANCEL_AFTER_ALL ->
        /* C: rdma_source_cancel() */
        shut = true;
        file_error = file_error || mutant == NO_BELT
    :: else ->
        if
        :: RUNNING ->
            src_state = CANCELLING;
            file_error = true;
            shut = true
        :: else -> skip
        fi
    fi
}

/* ---------------------------------------------------------- the destination */

bool dst_shut;      /* yank */
bool told, told_starts;

/*
 * Whether the source, which does not hand over, still waits.
 * C: rmig_dest_may_start() rmig_link_ask() rmig_link_look()
 */
#define LOOKS_WELL (!SAYS_ERROR(TO_DST) && !dst_shut && \
                    (!back || (!OVER(DST, MAIN) && !OVER(DST, BACK))))
/* A source that gives up takes a moment to say so; unless LATE, less than that
 * the destination's loading takes */
#define IN_TIME (MAY_LATE || hands_over || !GIVING_UP)

inline look(last)
{
    atomic {
        IN_TIME ->
        if
        :: dst_stock || mutant == NO_LOOK || LOOKS_WELL -> skip
        :: else -> goto failed
        fi;
        looked = looked || last
    }
}

proctype Destination() provided (is_up[DST] && !stuck[DST])
{
    /* QEMU: qemu_loadvm_state() */
    if
    :: atomic { came[TO_DST]?LAST, _ -> skip }
    :: SAYS_ERROR(TO_DST) -> goto failed
    :: DOWN(DST, MAIN, TO_DST) || dst_shut -> goto failed
    fi;
    if
    :: atomic { MAY_FAIL && mutant != STARTED_FIRST -> goto failed }
    :: atomic { !hands_over -> goto look_first }
    :: atomic { hands_over -> skip }
    fi;

    /* C: rdma_incoming_hand_over() rmig_dest_hand_over() */
    if
    :: atomic { came[TO_DST]?LOAD_REQUEST, _ -> skip }
    :: SAYS_ERROR(TO_DST) -> goto failed
    :: DOWN(DST, MAIN, TO_DST) || dst_shut -> goto failed
    fi;
    atomic {
        told = true;
        told_starts = dst_autostart;
        post(TO_SRC, LOADED, told_starts)
    }
    /* C: rmig_control_receive() */
    if
    :: mutant == STARTS_AT_ONCE
    :: atomic {
        came[TO_DST]?[START, false] ->
        came[TO_DST]?START, _;
        if
        :: SAYS_ERROR(TO_DST) -> goto failed    /* it was taken back */
        :: else -> has_guest = true
        fi
       }
    :: SAYS_ERROR(TO_DST) -> goto failed
    :: DOWN(DST, MAIN, TO_DST) && mutant == DISCONNECT_IS_GO
    :: (DOWN(DST, MAIN, TO_DST) && mutant != BLIND) || dst_shut ->
        goto failed
    fi;
    /* C: rmig_dest_hand_over() */
    atomic { has_guest = true; post(TO_SRC, STARTED, false) }
    /* C: rmig_link_drain() */
    unacked[TO_SRC] == 0 || OVER(DST, MAIN) || dst_shut;
    if
    :: mutant == STARTED_FIRST && MAY_FAIL -> has_guest = false; goto failed
    :: atomic { true -> skip }
    fi;
    goto bottom_half;

look_first:
    look(false);                /* C: rdma_incoming_hand_over() */

bottom_half:
    /* QEMU: process_incoming_migration_bh()  C: rmig_dest_revoke() */
    if
    :: atomic {
        /* C: rdma_incoming_may_run() */
        dst_autostart && (!told || told_starts || mutant == LATE_CONT) ->
        if
        :: true -> skip
        :: MAY_FAIL -> disks_failed = true; goto has_it /* it stays paused */
        fi
       }
    :: else -> goto has_it
    fi;
    if
    :: atomic { hands_over -> skip }
    :: !hands_over -> look(true)        /* C: rdma_incoming_asks() */
    fi;
    atomic { has_guest = true; run_there() }

has_it:
    atomic {
        has_guest = true;
        looked = true;
        dst_state = COMPLETED;
        if
        :: back -> post(REPORT, SHUT_OK, false)
        :: else -> skip
        fi
    }
    goto close;

failed:
    /* QEMU: migration_incoming_state_destroy() */
    atomic {
        dst_state = FAILED;
        if
        :: back -> post(REPORT, SHUT_BAD, false)
        :: else -> skip
        fi;
        post(TO_SRC, ERROR, false)
    }

close:
    /* C: rmig_dest_close() rmig_link_settle() */
    atomic {
        (!back || (unacked[REPORT] == 0 && empty(wire[REPORT])) ||
         OVER(DST, BACK)) &&
        ((unacked[TO_SRC] == 0 && empty(wire[TO_SRC])) || OVER(DST, MAIN)) ->
        leave(DST, MAIN, TO_SRC);
        leave(DST, BACK, REPORT)
    }
}

/* ----------------------------------------------- what happens from outside */

#define IN_WINDOW (MAY_LATE || !looked)

inline crash(side)
{
    is_up[side] = false;
    crashed[side] = true;
    LEFT(side, MAIN) = true;
    LEFT(side, BACK) = true
}

/* So many of these, each at most once, at any time */
byte troubles;
byte had;
#define ONCE(bit) !(had & (bit))

proctype Trouble()
{
    do
    :: atomic {
        troubles > 0 && IN_WINDOW ->
        if
        :: MAY_BREAK && ONCE(1) -> had = had | 1; broken[MAIN] = true
        :: MAY_BREAK && ONCE(2) && back -> had = had | 2; broken[BACK] = true
        :: MAY_CRASH && ONCE(4) && is_up[SRC] -> had = had | 4; crash(SRC)
        :: MAY_CRASH && ONCE(4) && is_up[DST] -> had = had | 4; crash(DST)
        :: MAY_CANCEL && ONCE(8) && is_up[SRC] -> had = had | 8; cancel()
        :: MAY_CANCEL && ONCE(16) && !shut -> had = had | 16; shut = true
        :: MAY_CANCEL && ONCE(16) -> had = had | 16; dst_shut = true
        :: MAY_STICK && ONCE(32) -> had = had | 32; stuck[SRC] = true
        :: MAY_STICK && ONCE(32) -> had = had | 32; stuck[DST] = true
        /* QEMU: qmp_cont() */
        :: MAY_CONT && ONCE(64) && !dst_autostart && dst_state == ACTIVE ->
            had = had | 64; dst_autostart = true
        fi;
        troubles--
       }
    :: break
    od;
    atomic { troubles = 0; had = 0 }
}

/*
 * Who manages the two, as docs/rdma.txt tells him to: with -S (libvirt) he
 * starts the destination when the source has completed, and kills it when the
 * source has failed.  Without, he looks after a source that was left stopped.
 */
bool operated;
#define LEFT_STOPPED (src_closed && src_state == FAILED && !src_runs)

inline fence(side)
{
    is_up[side] = false;
    LEFT(side, MAIN) = true;
    LEFT(side, BACK) = true
}

proctype Operator(bool paused)
{
end:
    if
    :: atomic { paused && src_closed && is_up[SRC] &&
                src_state == COMPLETED &&
                dst_state == COMPLETED && is_up[DST] ->
                run_there() }
    :: atomic { paused && mutant == OPERATOR_HASTY &&
                dst_state == COMPLETED && is_up[DST] ->
                run_there() }
    :: atomic { paused && (src_closed || !is_up[SRC]) &&
                src_state != COMPLETED && !dst_runs && is_up[DST] &&
                !(LEFT_STOPPED && is_up[SRC]) ->
                fence(DST) }
    :: atomic { LEFT_STOPPED && is_up[SRC] && is_up[DST] &&
                dst_state == COMPLETED ->
                fence(SRC);
                if
                :: !dst_runs && !disks_failed -> run_there()
                :: else -> skip
                fi }
    :: atomic { LEFT_STOPPED && is_up[SRC] &&
                (dst_state == FAILED || !is_up[DST] ||
                 mutant == OPERATOR_RASH) ->
                run_here() }
    fi;
    operated = true
}

/* ------------------------------------------------------------- the verdict */

#define SRC_DONE (!is_up[SRC] || src_closed)
#define DST_DONE (!is_up[DST] || dst_state != ACTIVE)
#define RUNS_ON_SRC (is_up[SRC] && src_runs)
#define RUNS_ON_DST (is_up[DST] && dst_runs)
/* A guest that one crash took with it, or that a disk holds up */
#define LOST_BY_CRASH (crashed[SRC] || crashed[DST] || disks_failed)
#define CAN_RUN_ON ((is_up[SRC] && src_closed) || \
                    (is_up[DST] && dst_state == COMPLETED))

inline goals()
{
    if
    :: goal == 1 -> assert(!(src_state == COMPLETED && RUNS_ON_DST))
    :: goal == 2 -> assert(!(LEFT_STOPPED && RUNS_ON_DST))
    :: goal == 3 -> assert(!(guest == COMMITTED && RUNS_ON_SRC))
    :: goal == 4 -> assert(!(src_state == CANCELLED && dst_state == FAILED))
    :: goal == 5 -> assert(!(shut && src_state == COMPLETED && guest == GONE))
    :: goal == 6 -> assert(!(report_error && src_state == COMPLETED))
    :: goal == 7 -> assert(!(crashed[SRC] && RUNS_ON_DST))
    :: goal == 8 -> assert(!(crashed[DST] && RUNS_ON_SRC))
    :: goal == 9 -> assert(!(told && !told_starts && dst_autostart &&
                             RUNS_ON_DST))
    :: else -> skip
    fi
}

proctype Judge()
{
    /* Nothing moves any more.  Only who is stuck may keep the other waiting. */
    timeout;
    atomic {
        CLAIM(WAITS, SRC_DONE || stuck[SRC] || stuck[DST]);
        CLAIM(WAITS, DST_DONE || stuck[SRC] || stuck[DST]);
        if
        :: !SRC_DONE && is_up[SRC] && !stuck[SRC] -> cancel()
        :: else -> skip
        fi
    }
    timeout;
    atomic {
        CLAIM(WAITS, SRC_DONE || stuck[SRC]);
        stuck[SRC] = false;
        stuck[DST] = false
    }
    timeout;
    d_step {
        CLAIM(WAITS, SRC_DONE && DST_DONE);
        CLAIM(TWO, !(RUNS_ON_SRC && RUNS_ON_DST));
        CLAIM(NONE, LOST_BY_CRASH || RUNS_ON_SRC || RUNS_ON_DST);
        /* A crash takes no more than the guest that it had */
        CLAIM(NONE, !(crashed[SRC] && src_state == COMPLETED) || crashed[DST] ||
                    dst_state == COMPLETED || !is_up[DST]);
        CLAIM(NONE, !(crashed[DST] && !has_guest) || crashed[SRC] ||
                    RUNS_ON_SRC);
        CLAIM(NONE, !disks_failed || crashed[SRC] || crashed[DST] ||
                    CAN_RUN_ON);
        goals()
    }
}

init {
    atomic {
        c_code {
            now.hands_over = setting("HANDS_OVER");
            now.back = setting("BACK");
            now.dst_autostart = setting("AUTOSTART");
            now.src_stock = setting("SRC_STOCK");
            now.dst_stock = setting("DST_STOCK");
            now.early = setting("EARLY");
            now.faults = setting("FAULTS");
            now.claims = setting("CLAIMS");
            now.mutant = setting("MUTANT");
            now.goal = setting("GOAL");
            now.troubles = setting("TROUBLES");
        };
        run Fabric();
        run Source();
        run Destination();
        if
        :: back -> run ReturnPath()
        :: else -> skip
        fi;
        run Trouble();
        run Operator(!dst_autostart);
        run Judge()
    }
}
