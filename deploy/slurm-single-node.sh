#!/usr/bin/env bash
# A real SLURM (munged + slurmctld + slurmd) on this one machine, for tests.
#
#   slurm-single-node.sh [start|stop|status|env|install]        default: start
#
# Everything (config, key, sockets, spool, logs, pid files) lies under one
# folder, $SLURM_LAB_DIR; nothing under /etc is read or written, and only the
# daemons whose pid files lie there are ever stopped.
#
#   eval "$(SLURM_LAB_DIR=/tmp/sl ./slurm-single-node.sh env)"   exports SLURM_CONF
#
# Settings (environment):
#   SLURM_LAB_DIR        state folder, absolute, <= 60 characters (unix sockets)   [/tmp/slurm-lab-$UID]
#   SLURM_LAB_CPUS       CPUs the node claims, may exceed the real ones            [max(4, real)]
#   SLURM_LAB_MEM_MB     memory the node claims, MiB                               [90% of MemTotal]
#   SLURM_LAB_PARTITION  partition name                                            [debug]
#   SLURM_LAB_INSTALL    1: 'start' may apt-get install what is missing (root)     [0]
#   SLURM_LAB_OVERMEM    1: kill a job whose RSS passes its --mem (1 s polling)    [1]
#   SLURM_LAB_TIMEOUT    seconds to wait for the node to become idle               [30]
set -euo pipefail

CMD=${1:-start}
DIR=${SLURM_LAB_DIR:-/tmp/slurm-lab-$(id -u)}
PART=${SLURM_LAB_PARTITION:-debug}
WAIT=${SLURM_LAB_TIMEOUT:-30}
CONF=$DIR/slurm.conf
SOCK=$DIR/munge.sock
PKGS="slurmctld slurmd slurm-client munge"
export PATH=$PATH:/usr/sbin:/sbin        # Debian puts the daemons in /usr/sbin

die() { echo "slurm-single-node: error: $*" >&2; exit 1; }
say() { echo "slurm-single-node: $*" >&2; }

[[ $DIR = /* ]] || die "SLURM_LAB_DIR must be an absolute path, got '$DIR'"
(( ${#DIR} <= 60 )) || die "SLURM_LAB_DIR is ${#DIR} characters; unix socket paths allow about 60 here: choose a shorter one"
[[ $DIR != *[[:space:]]* ]] || die "SLURM_LAB_DIR must not contain blanks: '$DIR'"

missing() { local b; for b in munged slurmctld slurmd sbatch scancel sinfo squeue; do command -v "$b" >/dev/null || echo "$b"; done; }

install_pkgs() {
  [ -z "$(missing)" ] && return 0
  command -v apt-get >/dev/null || die "missing: $(missing | tr '\n' ' '); no apt-get here, install SLURM and munge another way"
  [ "$(id -u)" = 0 ] || die "missing: $(missing | tr '\n' ' '); as root: apt-get install --no-install-recommends $PKGS"
  say "installing $PKGS"
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $PKGS; } >"/tmp/slurm-lab-apt.$$.log" 2>&1 \
    || die "apt-get failed, see /tmp/slurm-lab-apt.$$.log"
  rm -f "/tmp/slurm-lab-apt.$$.log"
}

# A pid file counts only if that process still is the daemon named (pids are reused).
alive() { # name pidfile
  local p; [ -s "$2" ] || return 1
  p=$(tr -dc 0-9 <"$2"); [ -n "$p" ] && [ -r "/proc/$p/cmdline" ] || return 1
  tr '\0' ' ' <"/proc/$p/cmdline" 2>/dev/null | grep -q "$1" && tr '\0' ' ' <"/proc/$p/cmdline" | grep -qF "$DIR"
}

free_port() { # first free TCP port from $1 on
  local p=$1
  while (exec 3<>"/dev/tcp/127.0.0.1/$p") 2>/dev/null; do p=$((p+1)); (( p < $1 + 200 )) || die "no free port near $1"; done
  echo "$p"
}

write_conf() {
  local host cpus real mem p1 p2 acct
  host=$(hostname -s) || die "no short hostname"
  real=$(nproc); cpus=${SLURM_LAB_CPUS:-$(( real > 4 ? real : 4 ))}
  mem=${SLURM_LAB_MEM_MB:-$(awk '/^MemTotal/{print int($2/1024*0.9)}' /proc/meminfo)}
  p1=$(free_port 16817); p2=$(free_port $((p1+1)))
  acct="JobAcctGatherType=jobacct_gather/none"
  [ "${SLURM_LAB_OVERMEM:-1}" = 1 ] && acct=$'JobAcctGatherType=jobacct_gather/linux\nJobAcctGatherFrequency=task=1\nJobAcctGatherParams=OverMemoryKill'
  cat >"$CONF" <<C
ClusterName=lab
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
SlurmctldPort=$p1
SlurmdPort=$p2
AuthType=auth/munge
AuthInfo=socket=$SOCK
CredType=cred/munge
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool
SlurmctldPidFile=$DIR/slurmctld.pid
SlurmdPidFile=$DIR/slurmd.pid
SlurmctldLogFile=$DIR/slurmctld.log
SlurmdLogFile=$DIR/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
$acct
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# the node may claim more CPUs than it has
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=2,bf_interval=2
ReturnToService=2
KillWait=2
MinJobAge=300
SlurmdTimeout=60
# jobs must not inherit odd limits of the submitting shell
PropagateResourceLimits=NONE
DefMemPerCPU=512
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$mem State=UNKNOWN
PartitionName=$PART Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
C
}

show_env() { echo "export SLURM_CONF=$CONF"; }

check_owner() { [ ! -e "$DIR" ] || [ -O "$DIR" ] || die "$DIR belongs to another user"; }

wait_for() { # what, seconds, command...
  local what=$1 n=$(( $2 * 10 )) i; shift 2
  for (( i=0; i<n; i++ )); do "$@" >/dev/null 2>&1 && return 0; sleep 0.1; done
  return 1
}
node_ready() { sinfo -h -o %t | grep -qE '^(idle|mix|alloc)$'; }

start() {
  [ "${SLURM_LAB_INSTALL:-0}" = 1 ] && install_pkgs
  [ -z "$(missing)" ] || die "missing: $(missing | tr '\n' ' ')- run '$0 install' as root, or apt-get install --no-install-recommends $PKGS"
  check_owner
  mkdir -p "$DIR"; chmod 755 "$DIR"; mkdir -p "$DIR/state" "$DIR/spool"
  if ! alive munged "$DIR/munged.pid" && ! alive slurmctld "$DIR/slurmctld.pid" && ! alive slurmd "$DIR/slurmd.pid"; then
    write_conf                            # ports are chosen anew only when nothing of ours runs
    rm -rf "$DIR/state" "$DIR/spool"; mkdir -p "$DIR/state" "$DIR/spool"
  fi
  export SLURM_CONF=$CONF
  if ! alive munged "$DIR/munged.pid"; then
    [ -s "$DIR/munge.key" ] || ( umask 077; head -c 1024 /dev/urandom >"$DIR/munge.key" )
    rm -f "$SOCK" "$SOCK.lock" "$DIR/munged.pid"
    munged --force --socket="$SOCK" --key-file="$DIR/munge.key" --log-file="$DIR/munged.log" \
           --pid-file="$DIR/munged.pid" --seed-file="$DIR/munged.seed" 2>"$DIR/munged.err" \
      || die "munged did not start: $(tail -2 "$DIR/munged.err" "$DIR/munged.log" 2>/dev/null)"
    munge -S "$SOCK" -n </dev/null 2>/dev/null | unmunge -S "$SOCK" >/dev/null 2>&1 || die "munge does not answer on $SOCK, see $DIR/munged.log"
  fi
  if ! alive slurmctld "$DIR/slurmctld.pid"; then
    slurmctld -c -f "$CONF" 2>"$DIR/slurmctld.err" || die "slurmctld did not start: $(tail -3 "$DIR/slurmctld.log" "$DIR/slurmctld.err" 2>/dev/null)"
    wait_for "slurmctld" "$WAIT" scontrol ping || die "slurmctld does not answer: $(tail -3 "$DIR/slurmctld.log")"
  fi
  if ! alive slurmd "$DIR/slurmd.pid"; then
    slurmd -c -f "$CONF" 2>"$DIR/slurmd.err" || die "slurmd did not start: $(tail -3 "$DIR/slurmd.log" "$DIR/slurmd.err" 2>/dev/null)"
  fi
  wait_for "node" "$WAIT" node_ready || die "the node did not become idle in ${WAIT}s: $(sinfo -N -h -o '%N %t %E' 2>&1; tail -3 "$DIR/slurmctld.log" "$DIR/slurmd.log")"
  say "ready: partition $PART, $(sinfo -h -o '%c CPUs, %m MiB, state %t')"
  show_env
}

stop_one() { # name pidfile
  local p i
  alive "$1" "$2" || { rm -f "$2"; return 0; }
  p=$(tr -dc 0-9 <"$2"); kill -TERM "$p" 2>/dev/null || true
  for (( i=0; i<100; i++ )); do kill -0 "$p" 2>/dev/null || break; sleep 0.1; done
  if kill -0 "$p" 2>/dev/null && alive "$1" "$2"; then say "$1 ($p) ignored TERM for 10 s, sending KILL"; kill -KILL "$p" 2>/dev/null || true; fi
  rm -f "$2"
}

stop() {
  check_owner
  [ -d "$DIR" ] || { say "nothing at $DIR"; return 0; }
  export SLURM_CONF=$CONF
  # jobs first: slurmstepd outlives slurmd by design
  if [ -s "$CONF" ] && alive slurmctld "$DIR/slurmctld.pid"; then
    scancel -u "$(id -un)" >/dev/null 2>&1 || true
    wait_for "jobs to end" 8 bash -c '[ -z "$(squeue -h)" ]' || { scancel --signal=KILL --full -u "$(id -un)" >/dev/null 2>&1 || true; wait_for "jobs" 8 bash -c '[ -z "$(squeue -h)" ]' || say "jobs still listed: $(squeue -h -o '%i %T' | tr '\n' ';')"; }
  fi
  stop_one slurmd "$DIR/slurmd.pid"
  stop_one slurmctld "$DIR/slurmctld.pid"
  stop_one munged "$DIR/munged.pid"
  say "stopped (logs and state stay in $DIR)"
}

status() {
  local d rc=0
  for d in munged slurmctld slurmd; do
    if alive "$d" "$DIR/$d.pid"; then echo "$d: running, pid $(tr -dc 0-9 <"$DIR/$d.pid")"; else echo "$d: not running"; rc=3; fi
  done
  [ $rc = 0 ] && SLURM_CONF=$CONF sinfo
  return $rc
}

case $CMD in
  start) start ;;
  stop) stop ;;
  status) status ;;
  env) [ -s "$CONF" ] || die "no $CONF yet: start first"; show_env ;;
  install) install_pkgs; [ -z "$(missing)" ] || die "still missing: $(missing | tr '\n' ' ')" ;;
  *) die "unknown command '$CMD' (start, stop, status, env, install)" ;;
esac
