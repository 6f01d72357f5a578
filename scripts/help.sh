# Option --help of every script: prints the comment at its top.
# Separate from common.sh, which looks for a GPU; that may take seconds.

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
