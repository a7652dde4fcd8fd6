/* SPDX-License-Identifier: Apache-2.0 */
/* The marks of one session (SPEC 21): a ledger, verifiers in several services, and an operator who lifts.

   READ sets a warning, SEND is refused after it.  The effect of TEST sets a proof, DEPLOY is refused without it.
   The ledger executes one function at a time.  A request can be executed late, after its caller gave up, and an answer
   can be lost.  Verifiers end at any moment.
   `read` and `tested` are what a spectator knows: what the ledger has allowed, in its order, and nothing forgets.

   Parts, each added by a macro:
     CRASH     the ledger's process ends, and another one has what was on the disk
     FAILOVER  another server has taken over, and the old one answers for a while; the session was opened before, or since
     LIFT      an operator lifts the marks */

#ifndef VERIFIERS
#define VERIFIERS 2
#endif
#define NONE 255

mtype = { READ, SEND, TEST, DEPLOY, LIFTED, GRANTED, REFUSED };

/* The ledger, and its disk: a warning, a proof, and whether marks may be lost. */
bit warned, proven, lost;
bit d_warned, d_proven;
bit later_task;                 /* a task was started since the beginning, in the same session */
#ifdef FAILOVER
bit old_answers, margin;        /* the margin is over after the old server has stopped */
bit old_warned, old_proven;
#endif

/* What the spectator knows. */
bit read, tested;
#ifdef REACH_SENT_AFTER_A_LIFT
bit was_read;
#endif

/* A request: its kind, its verifier, and a tag.  An answer: GRANTED or REFUSED, and whether the spectator minds. */
chan requests = [2] of { mtype, byte, byte };
chan answers[VERIFIERS] = [1] of { mtype, bit };
byte waits[VERIFIERS];          /* the tag of the request that is waited for, or NONE */
byte tags[VERIFIERS];

#ifdef MUTATION_PROOFS_COUNT_AFTER_A_LOSS
#define IS_PROVEN proven
#else
#define IS_PROVEN (proven && !lost)
#endif
#define IS_WARNED (warned || lost)
#ifdef MUTATION_WARNINGS_END_WITH_A_LOSS
#undef IS_WARNED
#define IS_WARNED warned
#endif
#ifdef MUTATION_A_LATER_TASK_HAS_LOST_NOTHING
#undef IS_WARNED
#define IS_WARNED (warned || (lost && !later_task))
#endif

inline reply(outcome, minds)
{
  if
  :: waits[who] == tag -> answers[who]!outcome, minds
  :: else                       /* the caller has given up, or is gone */
  fi
}

inline set(mark)
{
  mark = 1;
#ifdef MUTATION_A_MARK_ENDS_A_LOSS
  lost = 0;
#endif
  skip
}

active proctype Ledger()
{
  mtype kind;
  byte who, tag;
  do
  :: atomic {
       requests??kind, who, tag ->
       if
#ifdef FAILOVER
       /* The old server: it has no mark that the new one has set. */
       :: old_answers && kind == READ -> old_warned = 1; read = 1; reply(GRANTED, 0)
       :: old_answers && kind == SEND && !old_warned -> reply(GRANTED, read)
       :: old_answers && kind == SEND && old_warned -> reply(REFUSED, 0)
       :: old_answers && kind == TEST -> old_proven = 1; tested = 1
       :: old_answers && kind == DEPLOY && old_proven -> reply(GRANTED, !tested)
       :: old_answers && kind == DEPLOY && !old_proven -> reply(REFUSED, 0)
#ifndef MUTATION_WARNED_BESIDE_AN_OLD_SERVER
       :: margin && kind == READ -> reply(REFUSED, 0)
#define MAY_WARN !margin
#endif
#endif
#ifndef MAY_WARN
#define MAY_WARN 1
#endif
       :: kind == READ && MAY_WARN ->
#ifndef MUTATION_SET_AFTER_THE_CALL
          set(warned);
#endif
#ifdef REACH_SENT_AFTER_A_LIFT
          was_read = 1;
#endif
          read = 1; reply(GRANTED, 0)
       :: kind == SEND && IS_WARNED -> reply(REFUSED, 0)
       :: kind == SEND && !IS_WARNED ->
#ifdef REACH_SENT_AFTER_A_LIFT
          assert(!was_read);
#endif
          reply(GRANTED, read)
       :: kind == TEST ->
#ifndef MUTATION_PROVEN_BY_THE_ALLOW
          tested = 1;
#endif
          set(proven)
       :: kind == DEPLOY && IS_PROVEN -> reply(GRANTED, !tested)
       :: kind == DEPLOY && !IS_PROVEN -> reply(REFUSED, 0)
       :: kind == LIFTED && !lost -> warned = 0; proven = 0; read = 0; tested = 0
       :: kind == LIFTED && lost /* nothing is lifted where marks may be lost */
       fi;
       kind = 0; who = 0; tag = 0
     }
#ifdef CRASH
  :: atomic { d_warned != warned || d_proven != proven -> d_warned = warned; d_proven = proven }
  :: atomic { warned = d_warned; proven = d_proven; lost = 1; later_task = 0 }
  :: atomic { lost && !later_task -> later_task = 1 }
#endif
#ifdef FAILOVER
  :: atomic { old_answers -> old_answers = 0 }
  :: atomic { margin && !old_answers -> margin = 0 }
#endif
  od
}

inline ask(what)
{
  tags[me] = (tags[me] + 1) % 3;
  waits[me] = tags[me];
  requests!what, me, tags[me]
}

inline give_up()
{
  waits[me] = NONE;
  if
  :: answers[me]?_, _
  :: empty(answers[me])
  fi
}

proctype Verifier(byte me)
{
  mtype outcome;
  bit minds, sent_after_a_read, deployed_without_a_test;
#ifdef MUTATION_REMEMBERED_BY_THE_VERIFIER
  bit was_clean;
#endif
  do
  :: atomic { nfull(requests) -> ask(READ) };
     if
     :: atomic { answers[me]?outcome, minds -> waits[me] = NONE }
     :: atomic { give_up() }
     fi;
     atomic { outcome = 0; minds = 0 }
  :: atomic { nfull(requests) -> ask(SEND) };
     if
     :: atomic {
          answers[me]?outcome, minds -> waits[me] = NONE;
          if
          :: outcome == GRANTED ->
             sent_after_a_read = minds; assert(!sent_after_a_read);
#ifdef MUTATION_REMEMBERED_BY_THE_VERIFIER
             was_clean = 1;
#endif
             skip
          :: outcome == REFUSED
          fi
        }
     :: atomic {
          give_up();
#ifdef MUTATION_SENT_WITHOUT_AN_ANSWER
          sent_after_a_read = read; assert(!sent_after_a_read);
#endif
          skip
        }
     fi;
     atomic { outcome = 0; minds = 0 }
#ifdef MUTATION_REMEMBERED_BY_THE_VERIFIER
  :: atomic { was_clean -> sent_after_a_read = read; assert(!sent_after_a_read) }
#endif
  :: atomic { nfull(requests) -> requests!TEST, me, NONE } /* its effect is done */
  :: atomic { nfull(requests) -> ask(DEPLOY) };
     if
     :: atomic {
          answers[me]?outcome, minds -> waits[me] = NONE;
          if
          :: outcome == GRANTED ->
#ifdef REACH_DEPLOYED
             assert(!tested);
#endif
             deployed_without_a_test = minds; assert(!deployed_without_a_test)
          :: outcome == REFUSED
          fi
        }
     :: atomic { give_up() }
     fi;
     atomic { outcome = 0; minds = 0 }
  od
}

#ifdef LIFT
active proctype Operator()
{
  do
  :: atomic { nfull(requests) -> requests!LIFTED, 0, NONE }
  od
}
#endif

init {
  atomic {
    byte who;
#ifdef FAILOVER
    if                          /* opened before the beginning, which is when the old server has stopped: SPEC 17.5 */
#ifdef MUTATION_CLEAN_AFTER_A_FAILOVER
    :: old_answers = 1
#else
    :: old_answers = 1; margin = 1; lost = 1
#endif
    :: skip                     /* opened after it */
    fi;
#endif
    do
    :: who < VERIFIERS -> waits[who] = NONE; run Verifier(who); who++
    :: else -> break
    od
  }
}
