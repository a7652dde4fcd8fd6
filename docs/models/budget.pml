/* SPDX-License-Identifier: Apache-2.0 */
/* The budget protocol of SPEC 17: a ledger, and verifiers that draw, reserve, and lease slices of one pool.

   The ledger executes one function at a time.  A request can be executed late, after its caller gave up, and an answer
   can be lost.  Verifiers end at any moment.  The ledger's process can end and begin again with what was on its disk.
   `spent` is what a spectator counts: the cost of every call that was let through.

   Parts, each added by a macro:
     CRASH     the ledger's process ends, and another one has what was on the disk
     CLOCK_BACK  the clock of the ledger is set back, and on again
     RESERVE   calls whose cost is known afterwards
     LEASED    verifiers that decide on slices
     PERIOD    the pool is full again when a period begins
     TOP_UP    an operator adds a unit to a lost pool
     FAILOVER  another server has taken over, and the old one takes draws for a while; the pool was opened since
     EMPTY     the ledger's process ends, and one without any data begins, whose clock may be behind
     BACK      two servers with data of their own take turns, without a new process: failover and back.  The mint,
               which remembers the newest beginning, looks while the server that is back still waits
     ALL_SAW   instead of that look, each verifier has seen the beginning of a server before the next turn
     SHARD     the pool is in a bucket of a cluster: an answer is given once the replica of its shard has what changed, and
               the replica takes over at any moment and goes on
     SEAL      with CRASH: a process can seal its data, and notes the seal in the memory of the machine.  The next one
               has what was on the disk, then or at any time before, and takes the note: with its seal nothing is lost */

#ifndef MAX
#define MAX 3                   /* units of the pool */
#endif
#ifndef VERIFIERS
#define VERIFIERS 2
#endif
#ifndef OPS
#define OPS 3                   /* reservations and leases that are ever made */
#endif
#define PERIODS 2
#define LENGTH 2                /* ticks of a period */
#define NONE 255

mtype = { DRAW, RESERVATION, LEASE, SETTLE, UNDO, GRANTED, SHORT, BEGUN };

/* The ledger: committed, reserved, leased, and what each operation holds. */
short c, r, l;                  /* below nothing after a mistake alone */
byte held[OPS];
bit is_lease[OPS];
bit lost;                       /* the pool was opened before the beginning of the ledger: SPEC 17.5 */
byte period;                    /* of the counters */

/* What is on the ledger's disk. */
short d_c, d_r, d_l;
byte d_period;
byte d_held[OPS];

#ifdef SHARD
/* What the replica has: what the ledger had at some moment. */
short b_c, b_r, b_l;
byte b_period;
byte b_held[OPS];
#ifdef MUTATION_A_POOL_IN_TWO_BUCKETS
byte c_elsewhere;
#endif
#ifdef REACH_DRAWN_AFTER_A_TAKE_OVER
bit taken_over;
#endif

inline replicate()
{
  b_c = c; b_r = r; b_l = l; b_period = period;
  number = 0;
  do
  :: number < OPS -> b_held[number] = held[number]; number++
  :: else -> break
  od;
  number = 0
}
#endif

#ifdef SEAL
#ifndef SEALS
#define SEALS 2                 /* clean ends that are ever made */
#endif
byte seals, sealed, d_sealed;   /* the last one, and that of the data: 0 for none */
byte noted;                     /* in the memory of the machine, which no copy of the disk has */
bit starts;                     /* the process has not looked for the note yet */
#ifdef REACH_DRAWN_AFTER_AN_END
bit reopened;
#endif
#ifdef MUTATION_DRAWN_AFTER_THE_SEAL
#define IS_SEALED 0
#else
#define IS_SEALED (sealed > 0)
#endif
#ifdef MUTATION_A_NOTE_NAMES_NO_SEAL
#define IS_NOTED (noted > 0)
#else
#define IS_NOTED (noted == sealed)
#endif
#endif

byte ops;                       /* the next operation */
byte current, phase;            /* the period, and the ticks of it that are over */

/* A request: kind, operation, amount, verifier, tag, and the beginning that the verifier remembers.  An answer:
   GRANTED or SHORT, amount, ticks to the period's end, period; or BEGUN and the beginning of the ledger. */
chan requests = [2] of { mtype, byte, byte, byte, byte, byte };
chan answers[VERIFIERS] = [1] of { mtype, byte, byte, byte };
byte waits[VERIFIERS];          /* the tag of the request that is waited for, or NONE */

/* A verifier's slice: its operation, what it had, what is left, ticks until it ends. */
byte s_op[VERIFIERS], s_taken[VERIFIERS], s_left[VERIFIERS], s_until[VERIFIERS];
byte asked_ago[VERIFIERS];      /* ticks since the question for a slice */

byte spent;                     /* in this period */
byte whole = MAX;               /* what the ledger's pool has in a period */
byte topped_up;                 /* what an operator added */
#ifdef FAILOVER
bit old_answers = 1;            /* the old server has not stopped yet */
byte old_c;                     /* what is committed there */
#endif

/* A beginning is twice its number, and the server.  0: a verifier that remembers none. */
byte saw[VERIFIERS];
#ifdef BACK
#ifndef TURNS
#define TURNS 3
#endif
bit here = 1;                   /* the server that answers: 1 has taken over from 0 */
byte number_here = 2;           /* of the beginning */
byte number_there, c_there;     /* of the other server */
bit lost_there;
byte turns;
byte mint_saw = 5;
bit looked = 1;                 /* the mint has, since the last turn */
#define BEGINNING (2 * number_here + here)
#define IS_ANOTHER(mark) (mark != BEGINNING)
#define IS_OLDER_THAN(mark) (mark / 2 > number_here || (mark / 2 == number_here && mark % 2 != here))
#ifdef MUTATION_AN_OLDER_BEGINNING_IS_TAKEN
#undef IS_ANOTHER
#undef IS_OLDER_THAN
#define IS_ANOTHER(mark) 0
#define IS_OLDER_THAN(mark) 0
#endif
#ifdef MUTATION_EQUAL_BEGINNINGS_ARE_ONE
#undef IS_ANOTHER
#undef IS_OLDER_THAN
#define IS_ANOTHER(mark) (mark / 2 != number_here)
#define IS_OLDER_THAN(mark) (mark / 2 > number_here)
#endif

inline compare(mark)            /* a ledger that is older than what a caller saw begins anew: SPEC 17.5 */
{
  if
  :: IS_OLDER_THAN(mark) ->
     number_here = (mark / 2 > number_here -> mark / 2 : number_here) + 1; lost = 1
  :: else
  fi
}
#endif

/* The ledger's time is the latest that it saw.  Its clock can be set back: by a period, or to before the opening. */
#define OPENED 1
bit clock = OPENED;
#ifdef MUTATION_A_PERIOD_BEGINS_AGAIN /* the period compares with a time that goes back */
#define MUTATION_THE_CLOCK_GOES_BACK
#define ANOTHER(now) (period != now)
#else
#define ANOTHER(now) (period < now)
#endif
#ifdef EMPTY
bit forgot;                     /* the latest time that was seen is lost with the data */
#endif
#ifdef MUTATION_THE_CLOCK_GOES_BACK
#define NOW clock
#elif defined(EMPTY)
#define NOW (forgot -> clock : OPENED)
#else
#define NOW OPENED
#endif
#ifdef PERIOD
#define EARLY 0
#else
#define EARLY (NOW < OPENED)
#endif
#define PERIOD_NOW (NOW < OPENED && current > 0 -> current - 1 : current)

#define USED (c + r + l)
#ifdef MUTATION_A_LOST_POOL_IS_FULL
#define LOST 0
#else
#define LOST lost
#endif
#define LEFT (EARLY || LOST -> 0 : (USED < whole -> whole - USED : 0))

inline look()
{
  assert(lost || c + r + l <= whole);
#ifdef REACH_ALL_SPENT
  assert(spent < MAX + topped_up);
#endif
  assert(spent <= MAX + topped_up)
}

inline begin_period()
{
  if
  :: ANOTHER(PERIOD_NOW) ->
     period = PERIOD_NOW; c = 0; r = 0; l = 0; lost = 0;
     number = 0;
     do
     :: number < OPS -> held[number] = 0; number++
     :: else -> break
     od;
     number = 0
  :: else
  fi
}

inline reply(outcome, granted)
{
#ifdef SHARD
#ifdef MUTATION_ANSWERED_BEFORE_THE_REPLICA_HAS_IT
  if
  :: tell(outcome, granted)
  fi
#else
  if
  :: replicate(); tell(outcome, granted)
  :: skip                       /* the replica has not confirmed: this is no answer */
  fi
#endif
#else
  tell(outcome, granted)
#endif
}

inline tell(outcome, granted)
{
  if
  :: waits[who] == tag -> answers[who]!outcome, granted, LENGTH - phase, period
  :: else                       /* the caller has given up, or is gone */
  fi
}

active proctype Ledger()
{
  mtype kind;
  byte op, amount, who, tag, number, given, mark;
  do
  :: atomic {
#ifdef BACK
#ifndef MUTATION_A_SERVER_THAT_WAKES_GIVES_AT_ONCE
       looked && nempty(requests) -> /* after a pause a server waits for those that may have seen another one */
#endif
#endif
       requests??kind, op, amount, who, tag, mark ->
#ifdef PERIOD
       begin_period();
#endif
#ifdef BACK
       compare(mark);
#endif
       if
#ifdef BACK
       :: IS_ANOTHER(mark) -> reply(BEGUN, BEGINNING) /* and nothing is drawn: the caller asks again */
       :: else ->
       if
#endif
#ifdef SEAL
       :: (IS_SEALED || (starts && sealed)) && kind != UNDO && kind != SETTLE -> reply(SHORT, 0)
       :: (IS_SEALED || (starts && sealed)) && (kind == UNDO || kind == SETTLE) /* an error: it may ask again */
       :: else ->
       if
#endif
#ifdef FAILOVER
       :: kind == DRAW && old_answers ->
          if
          :: old_c + amount <= MAX -> old_c = old_c + amount; reply(GRANTED, amount)
          :: else -> reply(SHORT, 0)
          fi
#endif
#ifdef MUTATION_A_POOL_IN_TWO_BUCKETS
       :: kind == DRAW && who == 1 -> /* another bucket has a pool of this name */
          if
          :: c_elsewhere + amount <= MAX -> c_elsewhere = c_elsewhere + amount; reply(GRANTED, amount)
          :: else -> reply(SHORT, 0)
          fi
#endif
       :: kind == DRAW ->
          if
          :: LEFT >= amount -> c = c + amount; reply(GRANTED, amount)
          :: else -> reply(SHORT, 0)
          fi
       :: kind == RESERVATION || kind == LEASE ->
          given = amount;
#ifndef MUTATION_A_SLICE_IS_A_QUARTER_OF_THE_POOL
          if                    /* a slice is of what is left, and not of what the pool has */
          :: kind == LEASE && LEFT < amount -> given = LEFT
          :: else
          fi;
#endif
          if                    /* the call that needs a slice costs a unit */
          :: LEFT >= (kind == LEASE -> 1 : given) ->
             held[op] = given;
             if
             :: kind == LEASE -> is_lease[op] = 1;
#ifndef MUTATION_A_SLICE_TAKES_NOTHING
                l = l + given;
#endif
                skip
             :: else -> is_lease[op] = 0;
#ifndef MUTATION_A_RESERVATION_TAKES_NOTHING
                r = r + given;
#endif
                skip
             fi;
             reply(GRANTED, given)
          :: else -> reply(SHORT, 0)
          fi
       :: kind == SETTLE ->
          if
          :: held[op] && is_lease[op] -> l = l - held[op]
          :: held[op] && !is_lease[op] -> r = r - held[op]
          :: else
          fi;
          if
#ifdef MUTATION_MORE_THAN_WAS_RESERVED_IS_COMMITTED
          :: held[op] -> c = c + amount
#else
          :: held[op] && amount > held[op] && LEFT < amount -> c = c + held[op] /* it cost more than there is */
          :: held[op] && (amount <= held[op] || LEFT >= amount) -> c = c + amount
#endif
          :: else               /* a repeat */
#ifdef MUTATION_WHAT_GOES_BACK_IS_NOT_HELD_AGAINST_THE_PERIOD
             -> c = (c > 0 -> c - 1 : 0)
#endif
          fi;
#ifndef MUTATION_A_COMMIT_IS_REPEATED
          held[op] = 0;
#endif
          reply(GRANTED, 0)
       :: kind == UNDO ->
          if
          :: lost
          :: !lost && c >= amount -> c = c - amount
          :: else -> c = 0
          fi
       fi;
#if defined(BACK) || defined(SEAL)
       fi;
#endif
       given = 0;
       look();
       kind = 0; op = 0; amount = 0; who = 0; tag = 0; mark = 0
     }
#ifdef BACK
  :: atomic {                   /* the other server takes its turn, with what it had */
       turns < TURNS && mint_saw == BEGINNING ->
#ifdef ALL_SAW
       who = 0;
       do
       :: who < VERIFIERS && saw[who] == BEGINNING -> who++
       :: else -> break
       od;
       if
       :: who < VERIFIERS -> who = 0
       :: else -> who = 0;
#else
       looked = 0;
#endif
       turns++; here = 1 - here;
       number = number_here; number_here = number_there; number_there = number;
       number = c; c = c_there; c_there = number;
       number = lost; lost = lost_there; lost_there = number; number = 0
#ifdef ALL_SAW
       fi
#endif
     }
  :: d_step { !looked || mint_saw != BEGINNING -> compare(mint_saw); mint_saw = BEGINNING; looked = 1 }
#endif
#ifdef EMPTY
  :: d_step {                   /* another server process, without data */
       !lost -> c = 0; r = 0; l = 0; forgot = 1;
       do
       :: number < OPS -> held[number] = 0; number++
       :: else -> break
       od;
       number = 0;
#ifdef MUTATION_NO_MARGIN_WITHOUT_DATA
       lost = (NOW >= OPENED)
#else
       lost = 1                 /* its clock is behind that of the opening by less than the margin */
#endif
     }
#endif
#ifdef FAILOVER
  :: old_answers -> old_answers = 0
#endif
#ifdef SHARD
  :: d_step { replicate() }
  :: d_step {                   /* the replica takes over */
       c = b_c; r = b_r; l = b_l; period = b_period;
       do
       :: number < OPS -> held[number] = b_held[number]; number++
       :: else -> break
       od;
#ifdef REACH_DRAWN_AFTER_A_TAKE_OVER
       taken_over = 1;
#endif
       number = 0
     }
#endif
#ifdef TOP_UP
  :: atomic {                   /* it begins with what the operator adds, and nothing else */
       lost && !topped_up -> lost = 0; topped_up = 1; c = 0; r = 0; l = 0;
#ifdef MUTATION_A_LOST_POOL_THAT_WAS_TOPPED_UP_HAS_ITS_MAX
       whole = whole + 1;
#else
       whole = 1;
#endif
       do
       :: number < OPS -> held[number] = 0; number++
       :: else -> break
       od;
       number = 0
     }
#endif
#ifdef CLOCK_BACK
  :: clock = 1 - clock
#endif
#ifdef CRASH
  :: d_step {                   /* the disk has what the ledger has */
       d_c = c; d_r = r; d_l = l; d_period = period;
#ifdef SEAL
       d_sealed = sealed;
#endif
       do
       :: number < OPS -> d_held[number] = held[number]; number++
       :: else -> break
       od;
       number = 0
     }
  :: d_step {                   /* another server process: its last writes may be missing */
       !lost ->
       c = d_c; r = d_r; l = d_l; period = d_period;
       do
       :: number < OPS -> held[number] = d_held[number]; number++
       :: else -> break
       od;
       number = 0;
#ifdef SEAL
       sealed = d_sealed; starts = 1;
       lost = !sealed           /* a sealed one waits */
#else
#ifndef MUTATION_A_FAILOVER_LOSES_NOTHING
       lost = (NOW >= OPENED)   /* it was opened before the beginning, which is now */
#endif
#endif
     }
#endif
#ifdef SEAL
  :: d_step { !sealed && !lost && seals < SEALS -> seals++; sealed = seals; starts = 0 }
  :: d_step { sealed && !starts -> noted = sealed }
  :: noted -> noted = 0         /* the machine was without power, or a start took the note and ended */
  :: d_step {                   /* the start takes the note, if there is one of this seal, and opens the data */
       starts && sealed ->
       if
       :: IS_NOTED ->
#ifndef MUTATION_A_NOTE_IS_USED_TWICE
          noted = 0;
#endif
#ifdef REACH_DRAWN_AFTER_AN_END
          reopened = 1;
#endif
          skip
       :: else -> lost = 1
       fi;
       sealed = 0; starts = 0
     }
#endif
  od
}

inline ask(kind, op, amount)
{
  tag = (tag + 1) % 3;
  waits[me] = tag;
  requests!kind, op, amount, me, tag, saw[me]
}

inline spend(cost)              /* a cost counts in the period in which the ledger took it */
{
#ifdef REACH_DRAWN_AFTER_AN_END
  assert(!reopened);
#endif
#ifdef REACH_DRAWN_AFTER_A_TAKE_OVER
  assert(!taken_over);
#endif
  if
  :: when == current -> spent = spent + cost
  :: else
  fi;
  look()
}

inline give_up()
{
  waits[me] = NONE;
  if
  :: answers[me]?_, _, _, _
  :: empty(answers[me])
  fi
}

proctype Verifier(byte me)
{
  byte tag, op, used, amount, left, when;
  mtype outcome;
  do
  :: atomic { nfull(requests) -> ask(DRAW, 0, 1) };
     if
     :: atomic {
          answers[me]?outcome, amount, left, when -> waits[me] = NONE;
          if
#ifdef BACK
          :: outcome == BEGUN -> saw[me] = (amount / 2 > saw[me] / 2 -> amount : saw[me])
#endif
          :: outcome == GRANTED -> spend(1)
          #ifndef PERIOD
          :: outcome == GRANTED && nfull(requests) -> requests!UNDO, 0, 1, me, NONE, saw[me] /* refused by a later step */
#endif
          :: outcome == GRANTED
          :: outcome == SHORT
          fi;
          amount = 0; left = 0; when = 0
        }
     :: atomic {                /* no answer: refused, and it counts as drawn */
          give_up();
#ifdef MUTATION_LET_THROUGH_WITHOUT_AN_ANSWER
          spent++; look()
#endif
#ifdef MUTATION_UNDONE_WITHOUT_AN_ANSWER
          if
          :: nfull(requests) -> requests!UNDO, 0, 1, me, NONE, saw[me]
          :: full(requests)
          fi
#endif
        }
     fi
#ifdef RESERVE
  :: atomic { ops < OPS && nfull(requests) -> op = ops; ops++; ask(RESERVATION, op, 2) };
     if
     :: atomic {
          answers[me]?outcome, amount, left, when -> waits[me] = NONE;
          if
          :: outcome == SHORT -> used = NONE
          :: outcome == GRANTED -> used = 0
          :: outcome == GRANTED -> used = 1; spend(1)
          :: outcome == GRANTED -> used = 2; spend(2)
          :: outcome == GRANTED -> used = 3; spend(2) /* it cost more; the ledger may not have the third */
          fi;
          amount = 0; left = 0; when = 0
        };
        do                      /* the actual cost is committed until it is answered */
        :: used == NONE -> break
        :: atomic { used != NONE && waits[me] == NONE && nfull(requests) -> ask(SETTLE, op, used) }
        :: atomic { answers[me]?_, _, _, _ -> waits[me] = NONE; used = NONE }
        :: atomic { waits[me] != NONE -> give_up() }
        :: atomic { used != NONE -> used = NONE; give_up() } /* the process ends */
        od
     :: atomic { give_up() }
     fi;
     atomic { op = 0; used = 0 }
#endif
#ifdef LEASED
  :: atomic {                   /* a call from the slice */
       s_left[me] > 0 && s_until[me] > 0 -> s_left[me]--; spent++; look()
     }
  :: atomic {                   /* the slice is given up: from here on no call uses it */
       s_taken[me] > 0 -> op = s_op[me]; used = s_taken[me] - s_left[me];
#ifndef MUTATION_SLICE_USED_AFTER_ITS_RETURN
       s_taken[me] = 0; s_left[me] = 0; s_until[me] = 0; s_op[me] = 0
#endif
     };
     do
     :: used == NONE -> break
     :: atomic { used != NONE && waits[me] == NONE && nfull(requests) -> ask(SETTLE, op, used) }
     :: atomic { answers[me]?_, _, _, _ -> waits[me] = NONE; used = NONE }
     :: atomic { waits[me] != NONE -> give_up() }
     od;
     atomic {
       op = 0; used = 0;
#ifdef MUTATION_SLICE_USED_AFTER_ITS_RETURN
       s_taken[me] = 0
#endif
     }
  :: atomic {
       ops < OPS && s_taken[me] == 0 && nfull(requests) -> op = ops; ops++; asked_ago[me] = 0; ask(LEASE, op, 2)
     };
     if
     :: atomic {
          answers[me]?outcome, amount, left, when -> waits[me] = NONE;
          if
#ifdef MUTATION_SLICE_COUNTED_FROM_THE_ANSWER
          :: outcome == GRANTED -> s_op[me] = op; s_taken[me] = amount; s_left[me] = amount; s_until[me] = left
#else
          :: outcome == GRANTED && asked_ago[me] < left ->
             s_op[me] = op; s_taken[me] = amount; s_left[me] = amount; s_until[me] = left - asked_ago[me]
          :: outcome == GRANTED && asked_ago[me] >= left
#endif
          :: outcome == SHORT
          fi;
          amount = 0; left = 0; when = 0
        }
     :: atomic { give_up() }    /* it goes back when the ledger answers again, or it stays leased */
     fi;
     atomic { op = 0; asked_ago[me] = 0 }
#ifdef MUTATION_FORKED_WITH_ITS_SLICE
  :: atomic {                   /* a forked child goes on with a copy of the slice */
       me == 0 && s_left[0] > 0 && s_taken[1] == 0 ->
       s_op[1] = s_op[0]; s_taken[1] = s_taken[0]; s_left[1] = s_left[0]; s_until[1] = s_until[0]
     }
#endif
#ifdef MUTATION_LEASES_OF_THE_SILENT_RETURNED
  :: atomic {                   /* the ledger takes a slice back by itself, as if its verifier had ended */
       s_taken[me] > 0 && held[s_op[me]] && is_lease[s_op[me]] ->
       l = l - held[s_op[me]]; held[s_op[me]] = 0
     }
#endif
#endif
  :: atomic {                   /* the process ends, and another one begins */
       (s_taken[me] > 0) -> s_taken[me] = 0; s_left[me] = 0; s_until[me] = 0; s_op[me] = 0
     }
#if defined(BACK) && !defined(ALL_SAW)
  :: saw[me] > 0 -> saw[me] = 0 /* another process, which remembers nothing */
#endif
  od
}

#ifdef PERIOD
active proctype Clock()
{
  byte who;
  do
  :: d_step {
       current + 1 < PERIODS || phase + 1 < LENGTH ->
       phase++;
       who = 0;
       do
       :: who < VERIFIERS ->
          if
          :: s_until[who] > 0 -> s_until[who]--
          :: else
          fi;
          if
          :: waits[who] != NONE && asked_ago[who] < LENGTH -> asked_ago[who]++
          :: else
          fi;
          who++
       :: else -> break
       od;
       who = 0;
       if
       :: phase == LENGTH -> phase = 0; current++; spent = 0
       :: else
       fi
     }
  od
}
#endif

init {
  atomic {
    byte who;
#ifdef FAILOVER
    if                          /* opened before the beginning, which is when the old server has stopped: SPEC 17.5 */
#ifdef MUTATION_NO_MARGIN_AFTER_A_FAILOVER
    :: lost = 0
#else
    :: lost = 1
#endif
    :: old_answers = 0          /* opened after it; or registered: the old server was seen to end */
    fi;
#endif
#ifdef BACK
    if
    :: number_there = 1; lost = 1 /* opened before the other server took over */
    :: number_there = 1         /* opened after it */
    :: number_there = 2         /* the old server was restarted meanwhile */
    fi;
#endif
    do
    :: who < VERIFIERS -> waits[who] = NONE; run Verifier(who); who++
    :: else -> break
    od
  }
}
