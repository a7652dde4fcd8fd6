/* SPDX-License-Identifier: Apache-2.0 */
/* The kill protocol of SPEC 10: a store, a verifier's follower, a reader that decides, and a clock.

   Time is counted in ticks, and LEASE is the lease in ticks.  The store executes probes and kills one by one.  Both
   directions of a connection keep their order and are as slow as they like; a connection can end at any moment.  A kill
   is judged from the moment at which the store executes it, which is before it returns.

   A log is a word with two bits for each entry, and the word of the entries up to a number stands for the chain hash at
   that number: two words are equal if and only if these entries are.

   Parts, each added by a macro:
     HISTORY  a backup of the store is taken and restored, and histories are ended
     CONFIRM  the store has a registry, and an operator waits until the first entry is confirmed
     MINT     a mint derives a token from one that may be revoked
     REPLICA  a connection may reach a replica that lags
     MOVED    the server at the store's address restarts, or a replica that lags takes its place; a mint may attest
              that server, and ends the history if it was a replica: SPEC 10.8                                        */

#ifndef LEASE
#define LEASE 2
#endif
#ifndef BUMPS
#define BUMPS 2                 /* entries that are ever made */
#endif
#ifndef RESTORES
#define RESTORES 1
#endif
#ifndef HISTORIES
#define HISTORIES 2
#endif

#define OURS 1                  /* an entry that kills the target of every token here */
#define OTHER 2                 /* an entry that kills something else */
#define AT(word, number) (((word) >> (2 * ((number) - 1))) & 3)
#define UPTO(word, number) ((word) & ((1 << (2 * (number))) - 1))
#define BIT(number) (1 << (number))

mtype = { PUSH, OK, RESYNC, REGRESSED };

/* The store.  An incarnation is a number; 0 is none. */
byte inc = 1, seq, log, bumps;

/* The connection.  A probe is incarnation, applied, and the word up to there; PUSH is incarnation, number, and kind. */
bit connected;
chan up = [1] of { byte, byte, byte };
chan down = [2] of { mtype, byte, byte, byte, byte };

/* The verifier's view: SPEC 10.3. */
byte v_inc, v_applied, v_kill, v_retired;
byte v_word, v_place;           /* the chain at the last entry in order, and its number */
bit v_live;                     /* there is a lease */
byte v_age;                     /* ticks since its probe was sent */
bit sent;                       /* a probe is in flight, or its answer is being applied */
byte sent_age;
bit asked;                      /* a probe is in flight */
byte v_left;                    /* histories that this process has seen end */

/* The reader: what it holds between two steps of a decision. */
bit deciding, r_own;            /* r_own: the view was replaced meanwhile, and the reader still has the old one */
bit r_live;
byte r_age, r_applied, r_kill;
byte t_inc, t_born, t_root;     /* the token; t_root is where its oldest authority was born */

/* What a spectator with true time knows. */
byte k_seq[BUMPS], k_inc[BUMPS], k_since[BUMPS];
bit k_lost[BUMPS], k_known[BUMPS]; /* the store lost it; the view had applied it by then */
byte ended[HISTORIES + 1];      /* ticks since a history was ended, plus one; 0 if it was not */
bit accepted_after_the_lease;   /* what must never be: SPEC 10.6 */
bit accepted_an_ended_history;  /* SPEC 10.2 */
bit accepted_after_confirmed;   /* SPEC 10.3 */

#ifdef HISTORY
byte kept_inc, kept_seq, kept_log, restores;
#endif
#ifdef CONFIRM
bit a_known;                    /* the registry: a probe less than a lease before the first entry, or after it */
byte a_before, a_applied, began_before;
bit confirmed;
#endif
#ifdef MINT
byte m_applied, m_kill;         /* the mint's view: the store's entries up to some number */
bit minted;
byte minted_born;
#endif
#ifdef REPLICA
bit at_replica;
byte copied;                    /* entries that have reached the replica */
#endif
#ifdef MOVED
bit attested = 1, promoted;
byte copied;                    /* entries that have reached the replica */
#endif

inline cut()
{
  connected = 0;
  asked = 0;
  do
  :: nempty(down) -> down?_, _, _, _, _
  :: nempty(up) -> up?_, _, _
  :: empty(down) && empty(up) -> break
  od
}

inline push(number)
{
  if
  :: connected ->
     if
     :: nfull(down) -> down!PUSH, inc, number, AT(log, number), 0
     :: full(down) -> cut()     /* the store ends a connection that reads too slowly */
     fi
  :: !connected
  fi
}

/* The view is replaced as a whole: a decision that has begun goes on with the old one. */
inline replace()
{
  if
  :: deciding && !r_own -> r_own = 1; r_applied = v_applied; r_kill = v_kill
  :: else
  fi;
  v_live = 0;
  v_age = 0
}

inline fence()
{
  replace();
  v_retired = v_retired | BIT(v_inc)
}

inline answer(whole, newest)    /* the reply to a probe, from this log up to this number */
{
  if
  :: p_inc != inc -> down!RESYNC, inc, newest, UPTO(whole, newest), 0
  :: p_inc == inc && p_applied > newest -> down!REGRESSED, inc, newest, 0, 0
#ifndef MUTATION_CHAIN_NOT_COMPARED
  :: p_inc == inc && p_applied <= newest && UPTO(whole, p_applied) != p_word -> down!REGRESSED, inc, newest, 0, 0
  :: p_inc == inc && p_applied <= newest && UPTO(whole, p_applied) == p_word ->
#else
  :: p_inc == inc && p_applied <= newest ->
#endif
     if                         /* an answer has a limit */
     :: p_applied + 1 < newest -> down!OK, inc, newest, UPTO(whole, newest), p_applied + 1
     :: down!OK, inc, newest, UPTO(whole, newest), newest
     fi
  fi
}

active proctype Store()
{
  byte p_inc, p_applied, p_word, number;
  do
  :: atomic {
       nempty(up) && nfull(down) -> up?p_inc, p_applied, p_word;
#ifdef REPLICA
       if
       :: !at_replica -> answer(log, seq)
#ifdef MUTATION_PROBE_ANSWERED_BY_A_REPLICA
       :: at_replica -> answer(log, copied)
#else
       :: at_replica -> cut()   /* READONLY: the function writes */
#endif
       fi;
#elif defined(MOVED)
       if
       :: attested -> answer(log, seq)
#ifdef MUTATION_UNATTESTED_SERVER_ANSWERS
       :: !attested -> answer(log, seq)
#else
       :: !attested -> cut()    /* whatever its data are */
#endif
       fi;
#else
       answer(log, seq);
#endif
#ifdef CONFIRM
       a_known = 1; a_before = 0;
       a_applied = (p_inc == inc && p_applied <= seq && UPTO(log, p_applied) == p_word -> p_applied : 0);
#endif
       p_inc = 0; p_applied = 0; p_word = 0
     }
  :: atomic {
       bumps < BUMPS ->
       seq++;
       if
       :: log = log | (OURS << (2 * (seq - 1))); k_inc[bumps] = inc; k_seq[bumps] = seq
       :: log = log | (OTHER << (2 * (seq - 1)))
       fi;
       bumps++;
#ifdef REPLICA
       if
       :: !at_replica -> push(seq)
       :: at_replica
       fi
#else
       push(seq)
#endif
     }
#ifdef REPLICA
  :: atomic {
       copied < seq -> copied++;
       if
       :: at_replica -> push(copied)
       :: !at_replica
       fi
     }
#endif
#ifdef CONFIRM
  :: atomic {                   /* every verifier that may have a lease has applied it: SPEC 10.3 */
       bumps && !confirmed && began_before >= LEASE && a_known && a_applied >= 1 -> confirmed = 1;
#ifdef REACH_CONFIRMED
       assert(!confirmed)
#endif
     }
#endif
#ifdef MOVED
  :: atomic { copied < seq && !promoted -> copied++ }
  :: atomic { attested -> attested = 0; cut() } /* a restart: the replication id is a new one */
  :: atomic { !promoted -> promoted = 1; attested = 0; seq = copied; log = UPTO(log, copied); copied = 0; cut() }
  :: atomic {
       !attested -> attested = 1;
       if
       :: promoted && inc < HISTORIES -> ended[inc] = 1; inc++; log = 0; seq = bumps
       :: !promoted || inc == HISTORIES
       fi;
#ifdef REACH_ATTESTED
       assert(inc == 1)
#endif
     }
#endif
#ifdef HISTORY
  :: atomic { !kept_inc -> kept_inc = inc; kept_seq = seq; kept_log = log }
  :: atomic {                   /* a restore, or a tail that was not on the disk: the name stays, entries are lost */
       kept_inc && restores < RESTORES -> restores++;
       number = 0;
       do
       :: number < BUMPS ->
          if
          :: k_seq[number] && !k_lost[number] &&
             ((k_inc[number] == kept_inc && k_seq[number] > kept_seq) || k_inc[number] > kept_inc) ->
             k_lost[number] = 1;
             k_known[number] = (v_inc == k_inc[number] && v_applied >= k_seq[number])
          :: else
          fi;
          number++
       :: else -> break
       od;
       number = kept_inc;
       do
       :: number <= HISTORIES -> ended[number] = 0; number++
       :: else -> break
       od;
       number = 0;
       inc = kept_inc; seq = kept_seq; log = kept_log;
       cut()
     }
  :: atomic {                   /* the mint ends the history: SPEC 10.11 */
       inc < HISTORIES -> ended[inc] = 1;
       inc++;
       log = 0;
       if
       :: seq < bumps -> seq = bumps
       :: true
       fi;
       if
       :: connected && nfull(down) -> down!PUSH, inc, seq, 0, 0
       :: !connected || full(down)
       fi
     }
#endif
  od
}

active proctype Follower()
{
  mtype kind;
  byte a_inc, a_seq, a_word, upto, scan;
  do
  :: atomic {
       !connected -> connected = 1; /* subscribed: SPEC 10.3 */
#ifdef REPLICA
       if
       :: at_replica = 0
       :: at_replica = 1
       fi
#endif
     }
  :: atomic {
       connected && !asked -> asked = 1; sent = 1; sent_age = 0; /* the clock is read before the probe leaves */
       if
       :: v_place == v_applied -> up!v_inc, v_applied, v_word
       :: else -> up!0, 0, 0    /* the chain is not known: the view is copied anew */
       fi
     }
  :: atomic { connected -> cut(); sent = 0; sent_age = 0 }
#if defined(HISTORY) || defined(MOVED)
  :: atomic {                   /* the process begins anew */
       v_inc && !deciding -> cut(); sent = 0; sent_age = 0;
       v_inc = 0; v_applied = 0; v_kill = 0; v_retired = 0; v_word = 0; v_place = 0; v_live = 0; v_age = 0; v_left = 0;
       scan = 0;
       do
       :: scan < BUMPS -> k_known[scan] = 0; scan++
       :: else -> break
       od;
       scan = 0
     }
#endif
  :: atomic { nempty(down) -> down?kind, a_inc, a_seq, a_word, upto };
     if
     :: kind == PUSH ->
#ifdef MUTATION_BEAT_LEASE
        atomic {
          if
          :: a_inc == v_inc && a_seq > v_applied && v_live -> v_age = 0
          :: else
          fi
        };
#endif
        if
        :: atomic { a_inc == v_inc && a_seq > v_applied && a_word == OURS && v_kill < a_seq -> v_kill = a_seq }
        :: else
        fi;
        atomic {
          if
          :: a_inc == v_inc && a_seq == v_applied + 1 ->
             v_applied = a_seq; v_place = a_seq; v_word = v_word | (a_word << (2 * (a_seq - 1)))
#ifdef MUTATION_APPLIED_MOVED_OVER_A_GAP
          :: a_inc == v_inc && a_seq > v_applied + 1 -> v_applied = a_seq
#endif
          :: else
          fi
        }
     :: kind == OK ->
        asked = 0;
#ifdef MUTATION_LEASE_FROM_RECEIPT
        sent_age = 0;
#endif
        if
        :: a_inc == v_inc ->
#ifdef MUTATION_DEADLINE_PUBLISHED_BEFORE_ENTRIES
           atomic {
             if
             :: sent_age < LEASE -> v_live = 1; v_age = sent_age
             :: else
             fi
           };
#endif
           do
           :: v_place < upto && v_place < a_seq ->
              if
              :: atomic {
                   AT(a_word, v_place + 1) == OURS && v_place + 1 > v_applied && v_kill <= v_place ->
                   v_kill = v_place + 1
                 }
              :: else
              fi;
              atomic {
                v_place++;
                if
                :: v_place > v_applied -> v_applied = v_place
                :: else
                fi;
                v_word = v_word | (AT(a_word, v_place) << (2 * (v_place - 1)))
              }
           :: else -> break
           od;
           atomic {
             if
#ifndef MUTATION_CHAIN_NOT_COMPARED
             :: v_applied == a_seq && (v_word != a_word || v_place != a_seq) -> fence() /* numbers were used twice */
#endif
             :: (v_retired & BIT(v_inc)) -> fence()
             :: else ->
                if
#ifdef MUTATION_LEASE_THOUGH_BEHIND
                :: sent_age < LEASE -> v_live = 1; v_age = sent_age
#else
                :: v_applied == a_seq && sent_age < LEASE -> v_live = 1; v_age = sent_age
#endif
                :: else
                fi
             fi
           }
        :: else -> atomic { cut() } /* an answer from another history */
        fi;
        atomic { sent = 0; sent_age = 0 }
     :: kind == REGRESSED -> atomic { asked = 0; sent = 0; sent_age = 0; fence() }
     :: kind == RESYNC ->
        atomic { asked = 0; sent = 0; sent_age = 0 };
        atomic {                /* the store's kills are read later than the answer was made */
          if
          :: connected && inc == a_inc -> scan = seq
          :: else -> goto copied_nothing
          fi;
          do
          :: scan > 0 && AT(log, scan) != OURS -> scan--
          :: else -> break
          od
        };
        atomic {
          if
          :: a_inc == v_inc && a_seq < v_applied -> fence()
          :: a_inc == v_inc && a_seq >= v_applied && v_kill > scan -> scan = v_kill
          :: a_inc != v_inc && v_inc -> v_retired = v_retired | BIT(v_inc); v_left = v_left | BIT(v_inc)
          :: else
          fi;
          if
          :: a_inc == v_inc && a_seq < v_applied
          :: else ->
             replace();
             v_inc = a_inc; v_applied = a_seq; v_place = a_seq; v_word = a_word; v_kill = scan
          fi
        };
copied_nothing:
        skip
     fi;
     atomic { kind = 0; a_inc = 0; a_seq = 0; a_word = 0; upto = 0; scan = 0 }
  od
}

inline judge()
{
#ifdef REACH_LATE
  assert(!(k_seq[0] > t_root && k_inc[0] == t_inc && k_since[0] == LEASE - 1)); /* reached: as late as it may be */
#endif
  number = 0;
  do
  :: number < BUMPS ->
     if
     :: k_seq[number] > t_root && k_inc[number] == t_inc && k_since[number] >= LEASE &&
        (!k_lost[number] || k_known[number]) -> accepted_after_the_lease = 1
     :: else
     fi;
     number++
  :: else -> break
  od;
  number = 0;
#ifdef CONFIRM
  accepted_after_confirmed = r_confirmed && k_seq[0] > t_root;
#endif
#ifdef REACH_NEXT_HISTORY
  assert(t_inc == 1);
#endif
#ifdef REACH_MINTED
  assert(t_root == t_born);
#endif
  if
  :: r_left || ended[t_inc] > LEASE -> accepted_an_ended_history = 1
  :: else
  fi;
  assert(!accepted_after_the_lease);
  assert(!accepted_an_ended_history);
  assert(!accepted_after_confirmed)
}

/* A decision reads, in this order: the view and its lease; the incarnation; applied and kills; the clock.  SPEC 10.4. */
active proctype Reader()
{
  byte number;
  bit fresh, r_left, r_confirmed;
  do
  :: atomic {
       v_live ->                /* without a lease there is nothing to decide */
       t_inc = v_inc;
#if defined(HISTORY) || defined(MOVED)
       if
       :: v_inc > 1 -> t_inc = v_inc - 1
       :: true
       fi;
#endif
       if
       :: t_born = 0
       :: t_born = 1
#ifdef MINT
       :: minted -> t_born = minted_born
#endif
       fi;
       t_root = t_born;
#ifdef MINT
       if
       :: minted && t_born == minted_born -> t_root = 0
       :: true
       fi;
#endif
       r_left = (v_left >> t_inc) & 1;
#ifdef CONFIRM
       r_confirmed = confirmed;
#endif
#ifndef MUTATION_NO_INCARNATION
       if
       :: t_inc != v_inc -> goto decided
       :: else
       fi;
#endif
       deciding = 1;
       r_live = 1;
       r_age = v_age
     };
#ifdef MUTATION_CLOCK_BEFORE_KILLS
     fresh = r_age < LEASE;
#endif
     atomic {
       if
       :: !r_own -> r_applied = v_applied; r_kill = v_kill
       :: else
       fi;
       if
       :: t_born > r_applied || r_kill > t_born -> goto decided
       :: else
       fi;
       r_applied = 0;
       r_kill = 0
     };
#ifdef MUTATION_DEADLINE_AFTER_KILLS
     atomic {
       if
       :: !r_own && v_live -> r_age = v_age
       :: else
       fi
     };
#endif
     atomic {
#ifndef MUTATION_CLOCK_BEFORE_KILLS
       fresh = r_age < LEASE;
#endif
       if
       :: fresh -> judge()
       :: else
       fi;
decided:
       deciding = 0; r_own = 0; r_live = 0; r_age = 0; r_applied = 0; r_kill = 0; fresh = 0; r_left = 0;
       r_confirmed = 0; t_inc = 0; t_born = 0; t_root = 0
     }
  od
}

#ifdef MINT
/* The mint reads where its view is, then checks who asks, then signs: SPEC 10.2.  Its view may be old. */
active proctype Mint()
{
  byte born, number;
  do
  :: atomic {
       m_applied < seq -> m_applied++;
       if
       :: AT(log, m_applied) == OURS -> m_kill = m_applied
       :: else
       fi
     }
  :: !minted -> break
  od;
#ifndef MUTATION_BORN_READ_AFTER_THE_CHECK
  born = m_applied;
#endif
  do
  :: atomic {
       m_applied < seq -> m_applied++;
       if
       :: AT(log, m_applied) == OURS -> m_kill = m_applied
       :: else
       fi
     }
  :: m_kill == 0 -> break       /* the authority, born at 0, is not revoked */
  od;
  do
  :: atomic {
       m_applied < seq -> m_applied++;
       if
       :: AT(log, m_applied) == OURS -> m_kill = m_applied
       :: else
       fi
     }
  :: true -> break
  od;
#ifdef MUTATION_BORN_READ_AFTER_THE_CHECK
  born = m_applied;
#endif
  atomic { minted = 1; minted_born = born; born = 0; m_applied = 0; m_kill = 0 }
}
#endif

active proctype Clock()
{
  byte number;
  do
  :: d_step {
       if
       :: v_live -> v_age++
       :: else
       fi;
       if
       :: v_live && v_age >= LEASE -> v_live = 0; v_age = 0
       :: else
       fi;
       if
       :: sent && sent_age < LEASE -> sent_age++
       :: else
       fi;
       if
       :: r_live && r_age < LEASE -> r_age++
       :: else
       fi;
       number = 0;
       do
       :: number < BUMPS ->
          if
          :: k_seq[number] && k_since[number] < LEASE -> k_since[number]++
          :: else
          fi;
          number++
       :: else -> break
       od;
#ifdef CONFIRM
       if
       :: !bumps && began_before < LEASE -> began_before++
       :: else
       fi;
       if
       :: !bumps && a_known && a_before == LEASE -> a_known = 0; a_before = 0; a_applied = 0
       :: !bumps && a_known && a_before < LEASE -> a_before++
       :: else
       fi;
#endif
       number = 1;
       do
       :: number <= HISTORIES ->
          if
          :: ended[number] && ended[number] <= LEASE -> ended[number]++
          :: else
          fi;
          number++
       :: else -> break
       od;
       number = 0
     }
  od
}
