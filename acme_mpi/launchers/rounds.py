"""The part of a Slurm job that resumes by itself, as in ``scripts/job.sbatch``.

It starts the ranks again on the nodes that are left, and has Slurm queue the job again at the end
of its time, as long as each job brings results.
"""

from __future__ import annotations

OPTIONS = ("--no-kill", "--requeue")

# {n} ranks, {srun} and its options, {command}, {python}, {output_dir} and {name} are filled in.
TEXT = r"""
n_ranks={n}
max_rounds=5    # how often the ranks are started, at most; two rounds without results are the end
# These tell srun what the job was given at first, and it would insist on that.
unset SLURM_NNODES SLURM_JOB_NUM_NODES SLURM_NODELIST SLURM_JOB_NODELIST SLURM_NTASKS SLURM_NPROCS
unset SLURM_TASKS_PER_NODE SLURM_JOB_CPUS_PER_NODE SLURM_NTASKS_PER_NODE

# The nodes of this job that answer, with commas between them.
nodes_left() {{
    sinfo --Node --noheader --responding --format=%N \
        --nodes="$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%N)" | sort -u | paste -sd,
}}

count() {{ wc -w <<<"${{1//,/ }}"; }}

# How many tasks are done (n_done), or neither done nor failed (n_open).
count_tasks() {{
    {python} -m acme_mpi status {output_dir} --json 2>/dev/null |
        {python} -c "import json, sys; found = map(json.loads, sys.stdin)
print(sum(each['$1'] for each in found if each['name'] == sys.argv[1]))" {name} ||
        echo 0
}}

n_at_first=$(count_tasks n_done)
n_nodes_at_first=$(count "$(nodes_left)")
n_empty=0  # rounds without results, one after the other
for ((round = 1; round <= max_rounds; round++)); do
    nodes=$(nodes_left)
    n_nodes=$(count "$nodes")
    n_done=$(count_tasks n_done)
    echo "round $round: $n_done tasks are done, nodes: $nodes"
    has_all=$((n_nodes >= n_nodes_at_first))
    ((has_all)) || n_ranks=$((({n} * n_nodes + n_nodes_at_first - 1) / n_nodes_at_first))
    # --overlap: what was running on a lost node counts as running until Slurm gives the node up.
    {srun} --overlap --overcommit --nodes="$n_nodes" --nodelist="$nodes" --ntasks="$n_ranks" \
        {command} "$@"
    status=$?
    has_lost_nodes=$(($(count "$(nodes_left)") < n_nodes))
    case $status in
        0)            # all is done, or somebody has cancelled this step: srun says 0 of that, too
            (($(count_tasks n_open) == 0)) || status=75
            break ;;
        1 | 2 | 74)   # tasks have failed, wrong usage, disk full: for you to look at
            break ;;
        75)           # it was asked to stop: by the time limit, by you, or because a node failed
            ((has_lost_nodes)) || break ;;
    esac
    # Anything else: a rank or a node was lost. What is left is run on the nodes that are left.
    if ((!has_lost_nodes && $(count_tasks n_done) <= n_done)); then
        # Once may be bad luck: a node that fails at the start, a crash inside of MPI's own start.
        echo "round $round has brought nothing and ended with status $status"
        ((++n_empty < 2)) || break
    else
        n_empty=0
    fi
done

# Stopped early, so there is more to do than fits into one job: the same job goes on with it.
if [[ $status == 75 && ! -e $job/cancelled ]] && (($(count_tasks n_done) > n_at_first)); then
    scontrol requeue "$SLURM_JOB_ID" && exit "$status"  # it has not ended
fi
"""
