"""What each command does, in a line; known before the command is imported."""

SUBMIT, DOCTOR, SHELL = "submit", "doctor", "shell"
OF_JOBS = {
    SUBMIT: "have a job call the function: of Slurm, Grid Engine, or in the background here",
    "wait": "wait for the job of a directory, and say how it has ended",
    "cancel": "end the job of a directory: running tasks may end for 30 s; it can be resumed",
}
OF_RESULTS = {
    "show": "print the first rows of the table of results: arguments, results, time, error",
    "export": "write the results into a file that others read",
    "failed": "list the tasks that have failed: index, arguments, error",
}
OF_VIEWS = {
    "report": "draw a run as one page of HTML: over time, ranks, durations, failures, memory",
    "watch": "show a run while it goes on, in this terminal or in a browser",
}
COMMANDS = {
    "status": "say what is done, what is slow, and what has failed",
    "stop": "stop a run in good order: running tasks finish; the same command resumes it later",
    "recover": "link what a killed run has left, and what is intact in damaged files",
    "check": "read all results and compare their checksums; follow all links",
    **OF_VIEWS,
    **OF_RESULTS,
    **OF_JOBS,
    DOCTOR: "say what is wrong here with MPI, HDF5, launchers and folders, and what cures it",
    SHELL: "print completions for bash or zsh, or the manual page",
}
