# Where the models of a configuration are, sourced by the lines of both folders.

# under CONFIG MODELS: "--set KEY=MODELS/NAME", a word a line, for every folder models/NAME that a configuration names.
# A file that cannot be read is left for duosora to name.
under() {
    MODELS="$2" awk '
        /^[a-z_]+:/ { group = $1 }
        $1 ~ /^[a-z_]+:$/ && $2 ~ /^models\// {
            key = (/^ / ? group $1 : $1)
            gsub(":", ".", key)
            print "--set\n" substr(key, 1, length(key) - 1) "=" ENVIRON["MODELS"] substr($2, 7)
        }
    ' "$1" 2>/dev/null || true
}
