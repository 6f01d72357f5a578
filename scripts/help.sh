# Sourced by every script that a user runs, directly or through common.sh: prints the script's header for --help.
# A file of its own, because common.sh looks for a GPU, which may take seconds.

# Prints the comment at the top of script $1 and exits if --help or -h is among the other arguments.
show_help_if_asked() {
    local script="$1" argument line
    shift
    for argument in "$@"; do
        [[ "$argument" == --help || "$argument" == -h ]] || continue
        while IFS= read -r line && [[ "$line" == "#"* ]]; do
            [[ "$line" != "#!"* ]] || continue
            line="${line#"#"}"
            echo "${line# }"
        done <"$script"
        exit 0
    done
}
