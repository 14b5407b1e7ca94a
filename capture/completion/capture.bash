# Completion of capture and istio-iptables in bash: `source <(capture completion bash)`.

_capture() {
    local typed=${COMP_LINE:0:COMP_POINT} kind value current kept
    local -a words
    # As they were typed: bash splits its own words at "=" and ":".
    read -ra words <<<"${typed#*"${COMP_WORDS[0]}"}"
    [[ $typed == *[[:space:]] ]] && words+=("")
    ((${#words[@]})) || return 0
    current=${words[${#words[@]} - 1]}
    # What stands before the last of these stays on the line by itself.
    kept=${current%"${current##*[=:]}"}
    COMPREPLY=()
    while IFS=$'\t' read -r kind value _; do
        case $kind in
            files)
                compopt -o filenames 2>/dev/null
                while IFS= read -r value; do COMPREPLY+=("$value"); done < <(compgen -f -- "${current#--*=}")
                ;;
            word) COMPREPLY+=("${value#"$kept"}") ;;
        esac
    done < <("${COMP_WORDS[0]/#\~/$HOME}" completion candidates -- "${words[@]}" 2>/dev/null)
}

complete -F _capture capture istio-iptables
