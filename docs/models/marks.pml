/* SPDX-License-Identifier: Apache-2.0 */
/* The marks of one session (SPEC 21): a ledger, verifiers in several services, and an operator who lifts.

   READ sets a warning, SEND is refused after it.  The effect of TEST sets a proof, DEPLOY is refused without it.
   The ledger executes one function at a time.  A request can be executed late, after its caller gave up, and an answer
   can be lost.  Verifiers end at any moment.
   `read` and `tested` are what a spectator knows: what the ledger has allowed, in its order, and nothing forgets.

   Parts, each added by a macro:
     CRASH     the ledger's process ends, and another one has what was on the disk
     FAILOVER  another server has taken over, and the old one answers for a while; the session was opened before, or since
     LIFT      an operator lifts the marks
     APPROVE   READ sets the warning in one of two places, and PAY needs an approval while one is set; in place of the
               other calls.  The approver is shown the settings, and approves later; the holder keeps one approval. */

#ifndef VERIFIERS
#define VERIFIERS 2
#endif
#define NONE 255
#define SETS 3                  /* how often the warning is set at most */

mtype = { READ, SEND, TEST, DEPLOY, PAY, APPROVED, LIFTED, GRANTED, REFUSED };

/* The ledger, and its disk: a warning, a proof, and whether marks may be lost. */
bit warned, proven, lost;
bit d_warned, d_proven;
bit later_task;                 /* a task was started since the beginning, in the same session */
#ifdef FAILOVER
bit old_answers, margin;        /* the margin is over after the old server has stopped */
bit old_warned, old_proven;
#endif

#ifdef APPROVE
/* By place, the time at which the warning was set, as a number, 0 of one that is not; and the last of these times. */
byte set_at[2], d_set_at[2], last, d_last;
#ifdef FAILOVER
byte old_set_at[2], old_last;
#endif
/* What the approver was shown, and what the approval lists. */
byte shown[2], listed[2];
/* What the spectator knows: the number of the call that set it, which nothing repeats, and those of both above. */
byte true_set[2], true_last, true_shown[2], true_listed[2];
bit is_shown, is_approved;
#define IS_UNSEEN ((true_set[0] && true_listed[0] != true_set[0]) || (true_set[1] && true_listed[1] != true_set[1]))
#ifdef MUTATION_AN_APPROVAL_COUNTS_FOR_EACH_SETTING
#define COUNTS(at) is_approved
#else
#ifdef MUTATION_ONE_SETTING_SHOWN_IS_ENOUGH
#define COUNTS(at) (is_approved && ((at[0] && at[0] == listed[0]) || (at[1] && at[1] == listed[1])))
#else
#define COUNTS(at) (is_approved && (!at[0] || at[0] == listed[0]) && (!at[1] || at[1] == listed[1]))
#endif
#endif
#define MAY_PAY(at) ((!at[0] && !at[1]) || COUNTS(at))
#endif

/* What the spectator knows. */
#ifndef APPROVE
bit read, tested;
#endif
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

#ifdef APPROVE
/* A call sets the warning in one of its places: the first time counts. */
#ifdef MUTATION_SET_AGAIN_AT_THE_SAME_TIME
#define NEXT(its_last) 1
#else
#define NEXT(its_last) (its_last + 1)
#endif
#define SET_IN(at, its_last) \
  if :: place = 0 :: place = 1 fi; \
  if :: at[place] -> skip :: else -> its_last = NEXT(its_last); at[place] = its_last fi; \
  if :: true_set[place] -> skip :: else -> true_last++; true_set[place] = true_last fi; \
  place = 0
#endif

active proctype Ledger()
{
  mtype kind;
  byte who, tag;
#ifdef APPROVE
  byte place;
#endif
  do
  :: atomic {
       requests??kind, who, tag ->
       if
#ifdef APPROVE
#ifdef FAILOVER
       :: old_answers && kind == READ && old_last < SETS && true_last < SETS ->
          SET_IN(old_set_at, old_last); reply(GRANTED, 0)
       :: old_answers && kind == PAY && MAY_PAY(old_set_at) -> reply(GRANTED, IS_UNSEEN)
       :: old_answers && kind == PAY && !MAY_PAY(old_set_at) -> reply(REFUSED, 0)
       :: margin && kind == READ -> reply(REFUSED, 0)
#define MAY_WARN !margin
#else
#define MAY_WARN 1
#endif
       :: kind == READ && MAY_WARN && last < SETS && true_last < SETS -> SET_IN(set_at, last); reply(GRANTED, 0)
       :: kind == READ && (last == SETS || true_last == SETS) -> reply(REFUSED, 0)
       :: kind == PAY && !lost && MAY_PAY(set_at) ->
#ifdef REACH_PAID_WITH_AN_APPROVAL
          assert(!true_set[0] || !true_set[1]);
#endif
          reply(GRANTED, IS_UNSEEN)
       :: kind == PAY && !lost && !MAY_PAY(set_at) -> reply(REFUSED, 0)
#ifdef MUTATION_APPROVED_AFTER_A_LOSS
       :: kind == PAY && lost && COUNTS(set_at) -> reply(GRANTED, IS_UNSEEN)
       :: kind == PAY && lost && !COUNTS(set_at) -> reply(REFUSED, 0)
#else
       :: kind == PAY && lost -> reply(REFUSED, 0) /* no approver was shown what is lost */
#endif
#ifdef MUTATION_APPROVED_BEFORE_THE_LEDGER
       :: kind == APPROVED -> reply(GRANTED, IS_UNSEEN)
#endif
       :: kind == LIFTED && !lost ->
          set_at[0] = 0; set_at[1] = 0; true_set[0] = 0; true_set[1] = 0
       :: kind == LIFTED && lost
#else
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
#endif
       fi;
       kind = 0; who = 0; tag = 0
     }
#ifdef APPROVE
  /* The approver is shown the marks of a ledger that has lost none, and approves them later, or others anew. */
#ifdef FAILOVER
  :: atomic { old_answers ->
       shown[0] = old_set_at[0]; shown[1] = old_set_at[1];
       true_shown[0] = true_set[0]; true_shown[1] = true_set[1]; is_shown = 1 }
#endif
  :: atomic { !lost ->
       shown[0] = set_at[0]; shown[1] = set_at[1];
       true_shown[0] = true_set[0]; true_shown[1] = true_set[1]; is_shown = 1 }
  :: atomic { is_shown ->
#ifdef MUTATION_LISTED_AS_OF_THE_APPROVAL
       listed[0] = set_at[0]; listed[1] = set_at[1];
#else
       listed[0] = shown[0]; listed[1] = shown[1];
#endif
       true_listed[0] = true_shown[0]; true_listed[1] = true_shown[1]; is_approved = 1;
       shown[0] = 0; shown[1] = 0; true_shown[0] = 0; true_shown[1] = 0; is_shown = 0 }
#ifdef CRASH
  :: atomic { d_last != last || d_set_at[0] != set_at[0] || d_set_at[1] != set_at[1] ->
       d_set_at[0] = set_at[0]; d_set_at[1] = set_at[1]; d_last = last }
  :: atomic { set_at[0] = d_set_at[0]; set_at[1] = d_set_at[1]; last = d_last; lost = 1 }
#endif
#else
#ifdef CRASH
  :: atomic { d_warned != warned || d_proven != proven -> d_warned = warned; d_proven = proven }
  :: atomic { warned = d_warned; proven = d_proven; lost = 1; later_task = 0 }
  :: atomic { lost && !later_task -> later_task = 1 }
#endif
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
  bit minds, sent_after_a_read, deployed_without_a_test, paid_unseen;
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
#ifdef APPROVE
#ifdef MUTATION_APPROVED_BEFORE_THE_LEDGER
  :: atomic { nfull(requests) -> if :: MAY_PAY(set_at) -> ask(APPROVED) :: else -> ask(PAY) fi };
#else
  :: atomic { nfull(requests) -> ask(PAY) };
#endif
     if
     :: atomic {
          answers[me]?outcome, minds -> waits[me] = NONE;
          if
          :: outcome == GRANTED -> paid_unseen = minds; assert(!paid_unseen)
          :: outcome == REFUSED
          fi
        }
     :: atomic { give_up() }
     fi;
     atomic { outcome = 0; minds = 0 }
#else
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
#endif
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
