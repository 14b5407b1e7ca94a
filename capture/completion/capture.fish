# Completion of capture and istio-iptables in fish: `capture completion fish | source`.

function __capture_candidates
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    for line in ($words[1] completion candidates -- $words[2..-1] "$current" 2>/dev/null)
        set -l parts (string split -m 2 \t -- $line)
        if test "$parts[1]" = files
            set -l flag (string match -r '^--[^=]*=' -- "$current")
            __fish_complete_path (string replace -r '^--[^=]*=' '' -- "$current") | string replace -r '^' -- "$flag"
        else
            printf '%s\t%s\n' $parts[2] "$parts[3]"
        end
    end
end

complete -c capture -f -a '(__capture_candidates)'
complete -c istio-iptables -f -a '(__capture_candidates)'
