#!/bin/sh
# A sweep on a Slurm of one machine, its own: daemons in a temporary folder, tasks that are stopped and killed on the way, and the same table
# as by plain `dau sweep`. Then a sweep whose tasks have a GPU each, of two: Slurm is told of two that are not there, and two copies of
# lavapipe of different names stand in for them; and the same two by `--jobs 2` without Slurm. Touches no Slurm that is there already, and
# ends its daemons whatever happens.
#   scripts/try_slurm.sh [DAU]
# DAU is the program [target/release/dau]. Needs munged, slurmctld, slurmd and sbatch (Debian: munge slurmctld slurmd slurm-client), Mesa's
# lavapipe, two cores and the ports 26817 and 26818; no root. A few minutes.
set -eu
dau=$(realpath "${1:-target/release/dau}")
PATH=$PATH:/usr/sbin:/sbin
for tool in munged slurmctld slurmd sbatch; do
    command -v $tool >/dev/null || {
        echo "scripts/try_slurm.sh: there is no $tool: on Debian apt-get install munge slurmctld slurmd slurm-client" >&2
        exit 2
    }
done

place=$(mktemp -d)
chmod 755 "$place"
finish() {
    for pid in slurmd slurmctld munged; do
        [ ! -s "$place/$pid.pid" ] || kill "$(cat "$place/$pid.pid")" || true
    done
    sleep 2
    rm -rf "$place"
}
trap finish EXIT
trap 'exit 1' INT TERM
cd "$place"

mkdir state spool
dd if=/dev/urandom of=munge.key bs=1024 count=1 2>/dev/null
chmod 400 munge.key
host=$(hostname -s)
cat >slurm.conf <<END
ClusterName=try
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=26817
SlurmdPort=26818
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$place/munge.socket,cred_expire=10
StateSaveLocation=$place/state
SlurmdSpoolDir=$place/spool
SlurmctldPidFile=$place/slurmctld.pid
SlurmdPidFile=$place/slurmd.pid
SlurmctldLogFile=$place/slurmctld.log
SlurmdLogFile=$place/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2
# Less than there are cells: they need two arrays.
MaxArraySize=3
ReturnToService=2
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 Gres=gpu:2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
# Slurm numbers GPUs only that are devices.
printf "NodeName=$host Name=gpu File=/dev/%s\n" null zero >gres.conf
export SLURM_CONF="$place/slurm.conf"
munged --force --key-file="$place/munge.key" --socket="$place/munge.socket" --pid-file="$place/munged.pid" \
    --log-file="$place/munged.log" --seed-file="$place/munge.seed"
slurmctld
slurmd
sinfo --version
for _ in $(seq 30); do
    [ "$(sinfo -h -o %T)" != idle ] || break
    sleep 1
done
[ "$(sinfo -h -o %T)" = idle ] || { tail slurmctld.log slurmd.log >&2; exit 1; }

for out in plain slurm; do
    cat >$out.toml <<END
out = "$out"
[all]
dataset = "digits"
width = 4
epochs = 40
limit_per_class = 40
[vary]
attack = ["BadNets", "Blended"]
defense = ["none", "DAU"]
END
done
"$dau" sweep plain.toml >plain.txt

submit() { "$dau" sweep slurm.toml --slurm -- --gres=none --time=10; }
# Until $1 of the first array's tasks says in its log what $2 is a pattern of, $3 times.
says() {
    for _ in $(seq 300); do
        [ "$(cat slurm/logs/slurm-*_"$1".log 2>/dev/null | grep -c "$2")" -lt "$3" ] || return 0
        sleep 1
    done
    echo "task $1 never said $2" >&2
    exit 1
}
drain() {
    while [ -n "$(squeue -h)" ]; do
        sleep 2
    done
}
submit
array=$(squeue -h -r -o %F | sort -n | head -1)
# One is requeued as by a cluster that needs its node, one is told that its time is up and queues itself, and what Slurm does about memory
# is done to a third.
says 0 '^train [3-9]/' 1
scontrol requeue "${array}_0"
says 1 '^train [3-9]/' 1
scancel --batch --signal=USR1 "${array}_1"
says 2 '^train\|^features\|^test' 1
job=$(squeue -h -r -o %A -j "${array}_2")
for pid in $(scontrol listpids "$job" | sed '1d; s/ .*//'); do
    [ "$(cat "/proc/$pid/comm")" = slurm_script ] || kill -KILL "$pid"
done
drain
"$dau" sweep slurm.toml --list
submit || echo "nothing is left"
drain
"$dau" sweep slurm.toml --list
grep -h 'stopped: \|it goes on\|CANCELLED' slurm/logs/*.log | sort | uniq -c
# All columns but the seconds, which are the last two.
for out in plain slurm; do
    sed 's/,[^,]*,[^,]*$//' $out/table.csv >$out.csv
done
[ "$(wc -l <slurm.csv)" = 5 ]
diff plain.csv slurm.csv
cat slurm/table.md
echo "the same table"

# The second part. The name tells the copies apart in the cells' records.
driver=$(ls /usr/share/vulkan/icd.d/lvp_icd*.json | head -1)
library=$(sed -n 's/.*"library_path": *"\([^"]*\)".*/\1/p' "$driver")
for n in 0 1; do
    LC_ALL=C sed "s/llvmpipe (LLVM/llvmpip$n (LLVM/" "$(ls "$library" "/usr/lib/$(uname -m)-linux-gnu/$library" 2>/dev/null | head -1)" >"lvp$n.so"
    sed "s#\"library_path\": *\"[^\"]*\"#\"library_path\": \"$place/lvp$n.so\"#" "$driver" >"lvp$n.json"
done
export VK_DRIVER_FILES="$place/lvp0.json:$place/lvp1.json"
"$dau" devices --backend vulkan
sed 's/^out = .*/out = "gpus"/' slurm.toml >gpus.toml
"$dau" sweep gpus.toml --slurm -- --time=10
# Which GPU Slurm gave to which task, by Slurm's own word while it is at work.
while [ -n "$(squeue -h)" ]; do
    scontrol show job -d -o | grep 'JobState=RUNNING' |
        sed -n 's/.*ArrayJobId=\([0-9]*\) ArrayTaskId=\([0-9]*\) .*GRES=gpu[^(]*(IDX:\([0-9]\)).*/\1_\2 \3/p' >>given
    sleep 1
done
sort -u given >gave
cat gave
[ "$(wc -l <gave)" = 4 ]
[ "$(cut -d' ' -f2 gave | sort -u | tr '\n' ' ')" = '0 1 ' ]
adapters=$("$dau" devices --backend vulkan | sed -n 's/.*\(llvmpip[01]\).*/\1/p')
while read -r task gpu; do
    name=$(echo "$adapters" | sed -n "$((gpu + 1))p")
    grep "^task ${task#*_}, SLURM_JOB_GPUS=$gpu: adapter $gpu of 2, $name " "gpus/logs/slurm-$task.log"
done <gave
echo "each task on the GPU that it was given"
sed 's/^out = .*/out = "jobs"/' slurm.toml >jobs.toml
"$dau" sweep jobs.toml --jobs 2 2>&1 >jobs.txt | head -1
for out in gpus jobs; do
    for name in $adapters; do
        grep -l "\"adapter\": \"$name " $out/cells/*/results.json
    done
    sed 's/,[^,]*,[^,]*$//' $out/table.csv | diff plain.csv -
done
echo "and the same table"
