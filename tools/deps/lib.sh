# Building a library from Debian's source package into a cache: what the build-* scripts here share.
# Sourced, after `name`, `version` and `needed` (tools) are set; `wanted` is the file whose presence
# under the prefix means that the build is whole.

say() { echo "$name: $*" >&2; }
die() { say "error: $*"; exit 1; }

# Everything that could change the result is in the name, so a cached build is never a stale one.
prefix_of() { # what the build depends on...
    local cache=${MOORING_DEPS_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is unset: set MOORING_DEPS_CACHE}/.cache}/mooring}
    local hash
    hash=$(printf '%s\n' "$version" "$(uname -m)" "$@" | sha256sum)
    echo "$cache/$name-$version-${hash:0:12}"
}

# A bare machine lists binary packages only. The source entries are derived from the ones it has,
# in a directory of our own: the system's configuration and package lists are left as they are.
apt_with_sources() {
    apt-get -qq -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$work/sources" \
        -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" \
        -o APT::Sandbox::User="$(id -un)" -o Acquire::Retries=3 "$@"
}

derive_source_entries() {
    mkdir -p "$work/sources" "$work/lists/partial" "$work/cache/archives/partial"
    local f n=0
    for f in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
        [ -s "$f" ] || continue
        n=$((n + 1))
        case $f in
        *.sources) sed -E 's/^Types:.*/Types: deb-src/' "$f" >"$work/sources/$n.sources" ;;
        *) sed -nE 's/^deb(-src)?[[:space:]]/deb-src /p' "$f" | sort -u >"$work/sources/$n.list" ;;
        esac
    done
    [ "$n" -gt 0 ] || die "apt has no sources configured under /etc/apt"
}

# Unpacks the package into $work/src.
fetch_source() {
    derive_source_entries
    say "reading the source package lists (the system's own apt configuration is not touched)"
    # A third-party entry without sources makes this fail as a whole; what counts is this package.
    apt_with_sources update || say "some package lists could not be read, going on"
    say "fetching the source package of $name $version"
    # apt checks every file against the signed package lists, dpkg-source once more on unpacking.
    (cd "$work" && apt_with_sources source --download-only "$name") ||
        die "apt offers no source package: the configured archives need deb-src for '$name'"
    local dsc=("$work/$name"_"$version"-*.dsc)
    [ -f "${dsc[0]}" ] || die "apt offers another version than $version: $(cd "$work" && echo "$name"_*.dsc)"
    dpkg-source --no-check -x "${dsc[0]}" "$work/src" >"$work/log" 2>&1 || die "$(tail -n 5 "$work/log")"
}

begin_build() {
    local tool
    for tool in "${needed[@]}"; do
        command -v "$tool" >/dev/null || die "$tool is needed; ./run build installs it"
    done
    work=$(mktemp -d "${TMPDIR:-/tmp}/mooring-$name.XXXXXX")
    trap 'rm -rf "$work"' EXIT
}

# What was staged is moved into place whole: a build that was interrupted is never taken for a
# finished one, and of two builds at the same time the second finds the first one's result.
finish_build() {
    mkdir -p "$(dirname "$prefix")"
    mv -T "$work/stage$prefix" "$prefix" 2>/dev/null || [ -f "$prefix/$wanted" ] ||
        die "cannot write $prefix"
    say "done"
}
