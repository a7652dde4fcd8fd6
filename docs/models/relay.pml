/* SPDX-License-Identifier: Apache-2.0 */
/* Relays and confirmed kills, SPEC 10.7 and 10.3: a store with its registry, a relay, a verifier behind it, an operator
   who waits until a kill is confirmed, and a clock.

   There is one kill, of the target of every token here; that all entries before a number are applied, and the steps of
   a decision, are the subject of kill.pml.  Time is counted in ticks, and LEASE is the lease in ticks.  A relay has two
   threads, and what its follower hands to its loop may wait.  Connections keep their order, are as slow as they like,
   and can end at any moment.  Nothing is explored after the verifier has applied the kill: it never forgets it.

   Parts, each added by a macro:
     HURRY    a caller of the verifier waits for an answer that is not older than its question
     CONFIRM  the relay reports those behind it, and the operator waits for confirmations
     MOVED    another server answers at the store's address, which lacks the kill and which no mint attests

   Counters named `..._before` stop when the kill is executed: they tell how long before the kill something was, which
   is all that the operator asks for.                                                                                 */

#ifndef LEASE
#define LEASE 2
#endif
#ifndef RELAYS
#define RELAYS 2                /* names of relays: one that is restarted has another name */
#endif
#define SILENT (LEASE / 2)      /* a follower that was silent for longer is reported by name */
#define FORGET (5 * LEASE / 2)  /* and then forgotten */

mtype = { PUSH, ANSWER, ENTRY, GRANT };

/* The store. */
bit killed;
byte since;                     /* ticks since the kill */
#ifdef MOVED
bit moved;                      /* another server answers */
#endif

/* Between the store and the relay: a probe has its name.  A connection that ends is followed by another at once. */
chan r_up = [1] of { byte };
chan r_down = [2] of { mtype, bit };

/* The relay's follower. */
byte name;
bit r_applied, r_asked;
byte r_sent_age;

/* From the follower to the loop; and the loop. */
chan hand = [2] of { mtype };
byte hand_age;                  /* of the grant in there */
bit h_applied, h_granted;
byte h_age;
bit m_current;                  /* the connection of the last probe goes on */

/* Between the relay and the verifier: whether a caller waits; kind, applied, age. */
chan v_up = [1] of { bit };
chan v_down = [2] of { mtype, bit, byte };

/* The verifier's view. */
bit v_applied, v_live, v_asked;
byte v_age, v_sent_age;

#ifdef HURRY
bit m_asked;                    /* a probe waits */
byte m_came_age;
#endif
#ifdef CONFIRM
bit g_known[RELAYS], g_applied[RELAYS], g_late[RELAYS]; /* the registry; one is named */
byte g_before[RELAYS], g_late_before[RELAYS]; /* the last probe; the last probe of the one that is named */
byte began_before;              /* the age of the registry */
bit c_applied, c_late;          /* the report of those behind the relay: applied by all; one is named */
byte c_late_before;
bit m_known, m_listens;
byte m_heard;
bit confirmed;
#endif

bit accepted_after_the_lease;   /* what must never be: SPEC 10.6 */
bit accepted_after_confirmed;   /* SPEC 10.3 */

inline v_cut()
{
  v_asked = 0; v_sent_age = 0; m_current = 0;
  do
  :: nempty(v_down) -> v_down?_, _, _
  :: nempty(v_up) -> v_up?_
  :: empty(v_down) && empty(v_up) -> break
  od
}

inline r_cut()
{
  r_asked = 0; r_sent_age = 0;
  do
  :: nempty(r_down) -> r_down?_, _
  :: nempty(r_up) -> r_up?_
  :: empty(r_down) && empty(r_up) -> break
  od
}

active proctype Store()
{
  byte who;
  do
  :: v_applied -> break
  :: atomic {                   /* a probe: recorded with the report as it is now, and answered */
       nempty(r_up) && nfull(r_down) && !v_applied -> r_up?who;
#ifdef MOVED
       if
#ifdef MUTATION_UNATTESTED_SERVER_ANSWERS
       :: moved -> r_down!ANSWER, 0; goto answered
#else
       :: moved -> r_cut(); goto answered
#endif
       :: !moved
       fi;
#endif
#ifdef CONFIRM
       g_known[who] = 1; g_before[who] = 0; g_applied[who] = c_applied;
       g_late[who] = c_late; g_late_before[who] = c_late_before;
#endif
       r_down!ANSWER, killed;
answered:
       who = 0
     }
#ifdef MOVED
  :: atomic { killed && !moved && !v_applied -> moved = 1; r_cut() }
#endif
  :: atomic {
       !killed -> killed = 1;
       if
       :: nfull(r_down) -> r_down!PUSH, 1
       :: full(r_down)
       fi
     }
#ifdef CONFIRM
  :: atomic {                   /* another server process begins: the registry is not kept */
       began_before && !killed -> r_cut();
       began_before = 0;
       do
       :: who < RELAYS ->
          g_known[who] = 0; g_applied[who] = 0; g_late[who] = 0; g_before[who] = 0;
          g_late_before[who] = 0; who++
       :: else -> break
       od;
       who = 0
     }
#endif
  od
}

#ifdef CONFIRM
/* Whether every verifier that may have a lease has confirmed: `arx_caps.revocation.wire.read_registry`. */
active proctype Operator()
{
  byte who;
  bit missing, heard;
  do
  :: v_applied -> break
  :: atomic {
       killed && !confirmed && !v_applied && began_before >= LEASE ->
       do
       :: who < RELAYS ->
          if
          :: g_known[who] ->
             heard = 1;
             if
             :: !g_applied[who] || g_late[who] -> missing = 1
             :: else
             fi
          :: else
          fi;
          who++
       :: else -> break
       od;
       confirmed = heard && !missing;
#ifdef REACH_CONFIRMED
       assert(!confirmed);
#endif
       who = 0; missing = 0; heard = 0
     }
  od
}
#endif

inline take_entry()
{
  h_applied = 1;
  if
  :: nfull(v_down) -> v_down!PUSH, 1, 0
  :: full(v_down)
  fi
}

/* The thread of the relay that follows the store: `arx_caps.relay.upstream`. */
active proctype Upstream()
{
  mtype kind;
  bit applied;
  do
  :: v_applied -> break
  :: atomic { !r_asked && !v_applied -> r_asked = 1; r_sent_age = 0; r_up!name }
  :: atomic { r_asked && !v_applied -> r_cut() }
  :: atomic {
       nempty(r_down) && empty(hand) && !v_applied -> r_down?kind, applied;
       if
       :: applied && !r_applied ->
          r_applied = 1;
#ifdef CONFIRM
          take_entry()
#else
          hand!ENTRY
#endif
       :: !applied || r_applied
       fi;
       if
       :: kind == ANSWER && r_applied == applied && r_sent_age < LEASE ->
#ifdef CONFIRM
          h_granted = 1; h_age = r_sent_age
#else
          hand!GRANT; hand_age = r_sent_age
#endif
       :: kind != ANSWER || r_applied != applied || r_sent_age >= LEASE
       fi;
       if
       :: kind == ANSWER -> r_asked = 0; r_sent_age = 0
       :: kind != ANSWER
       fi;
       kind = 0; applied = 0
     }
  :: atomic {                   /* the relay's process begins anew, under another name */
       name + 1 < RELAYS && !v_applied -> name++;
       r_cut();
       do
       :: nempty(hand) -> hand?_
       :: empty(hand) -> break
       od;
       r_applied = 0; hand_age = 0; h_applied = 0; h_granted = 0; h_age = 0;
#ifdef HURRY
       m_asked = 0; m_came_age = 0;
#endif
#ifdef CONFIRM
       c_applied = 0; c_late = 0; c_late_before = 0;
       m_known = 0; m_listens = 0; m_heard = 0;
#endif
       v_cut()
     }
  od
}

inline reply(age)
{
  if
  :: !m_current || full(v_down)
#ifdef MUTATION_AGE_NOT_SENT
  :: m_current && nfull(v_down) -> v_down!ANSWER, h_applied, 0
#else
  :: m_current && nfull(v_down) -> v_down!ANSWER, h_applied, age
#endif
  fi
}

/* The loop of the relay that serves the verifier: `arx_caps.relay.hub`. */
active proctype Hub()
{
  bit hurry;
  do
  :: v_applied -> break
  :: atomic {
       hand?[ENTRY] && !v_applied -> hand?ENTRY;
       take_entry()
     }
  :: atomic {
       hand?[GRANT] && !v_applied -> hand?GRANT;
       h_granted = 1; h_age = hand_age; hand_age = 0;
#ifdef HURRY
       if                       /* the probe that waits for an answer to a later question */
       :: m_asked && h_age <= m_came_age -> reply(0); m_asked = 0; m_came_age = 0
       :: !m_asked || h_age > m_came_age
       fi
#endif
     }
  :: atomic {
       nempty(v_up) && nfull(v_down) && !v_applied -> v_up?hurry;
       m_current = 1;
#ifdef HURRY
       m_asked = 0; m_came_age = 0;
#endif
#ifdef CONFIRM
       m_known = 1; m_listens = 1; m_heard = 0;
#endif
       if
       :: !h_granted -> v_cut()
#ifdef HURRY
       :: h_granted && hurry -> m_asked = 1
#endif
       :: h_granted && !hurry -> reply(h_age)
       fi;
       hurry = 0
     }
#ifdef CONFIRM
  :: atomic {                   /* the connection has ended, and its follower may have a lease */
       m_listens && !m_current && !v_applied -> m_listens = 0
     }
  :: atomic {                   /* the report of those behind the relay */
       !v_applied ->
       if
       :: m_known && m_heard > FORGET -> m_known = 0; m_listens = 0; m_heard = 0
       :: else
       fi;
       c_applied = h_applied; c_late = 0; c_late_before = 0;
       if
       :: m_known && (!m_listens || m_heard > SILENT) ->
#ifdef MUTATION_SILENT_ONES_NOT_NAMED
          skip
#else
          c_late = 1; c_late_before = (killed -> 0 : m_heard)
#endif
       :: m_known && m_listens && m_heard <= SILENT ->
#ifdef MUTATION_RELAY_CONFIRMS_FOR_ITSELF
          skip
#else
          c_applied = 0
#endif
       :: !m_known
       fi
     }
#endif
  od
}

active proctype Verifier()
{
  mtype kind;
  bit applied;
  byte age;
  do
  :: v_applied -> break
  :: atomic {
       !v_asked && empty(v_up) && !v_applied -> v_asked = 1; v_sent_age = 0;
       if
       :: v_up!0
#ifdef HURRY
       :: v_up!1
#endif
       fi
     }
  :: atomic { (v_asked || m_current) && !v_applied -> v_cut() }
  :: atomic {
       nempty(v_down) && !v_applied -> v_down?kind, applied, age;
       v_applied = applied;
       if
       :: kind == ANSWER ->
          v_asked = 0;
          if
          :: v_sent_age + age < LEASE -> v_live = 1; v_age = v_sent_age + age
          :: v_sent_age + age >= LEASE
          fi;
          v_sent_age = 0
       :: kind == PUSH
       fi;
       kind = 0; applied = 0; age = 0
     }
  od
}

active proctype Reader()
{
  do
  :: v_applied -> break
  :: atomic {
       v_live && !v_applied && killed ->
#ifdef REACH_LATE
       assert(since != LEASE - 1); /* reached: as late as it may be */
#endif
       accepted_after_the_lease = since >= LEASE;
#ifdef CONFIRM
       accepted_after_confirmed = confirmed;
#endif
       assert(!accepted_after_the_lease);
       assert(!accepted_after_confirmed)
     }
  od
}

active proctype Clock()
{
  byte who;
  do
  :: v_applied -> break
  :: d_step {
       !v_applied ->
#ifdef CONFIRM
       if
       :: !killed ->
          if
          :: began_before < LEASE -> began_before++
          :: else
          fi;
          do
          :: who < RELAYS ->
             if                 /* what was heard more than a lease before the kill is not asked for */
             :: g_known[who] && g_before[who] == LEASE ->
                g_known[who] = 0; g_before[who] = 0; g_applied[who] = 0; g_late[who] = 0; g_late_before[who] = 0
             :: g_known[who] && g_before[who] < LEASE -> g_before[who]++
             :: else
             fi;
             if
             :: g_late[who] && g_late_before[who] == LEASE -> g_late[who] = 0; g_late_before[who] = 0
             :: g_late[who] && g_late_before[who] < LEASE -> g_late_before[who]++
             :: else
             fi;
             who++
          :: else -> break
          od;
          who = 0;
          if
          :: c_late && c_late_before == LEASE -> c_late = 0; c_late_before = 0
          :: c_late && c_late_before < LEASE -> c_late_before++
          :: else
          fi;
          if
          :: m_known && m_heard == LEASE -> m_known = 0; m_listens = 0; m_heard = 0
          :: else
          fi
       :: else
       fi;
       if
       :: m_known && m_heard <= FORGET -> m_heard++
       :: else
       fi;
#else
       if
       :: killed && since < LEASE -> since++
       :: else
       fi;
#endif
#ifdef HURRY
       if
       :: m_asked && m_came_age < LEASE -> m_came_age++
       :: else
       fi;
#endif
       if
       :: r_asked && r_sent_age < LEASE -> r_sent_age++
       :: else
       fi;
       if
       :: hand?[GRANT] && hand_age < LEASE -> hand_age++
       :: hand?[ENTRY] && len(hand) == 2 && hand_age < LEASE -> hand_age++
       :: else
       fi;
       if
       :: h_granted && h_age < LEASE -> h_age++
       :: else
       fi;
       if
       :: v_live -> v_age++
       :: else
       fi;
       if
       :: v_live && v_age >= LEASE -> v_live = 0; v_age = 0
       :: else
       fi;
       if
       :: v_asked && v_sent_age < LEASE -> v_sent_age++
       :: else
       fi
     }
  od
}
