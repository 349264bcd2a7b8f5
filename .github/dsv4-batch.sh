#!/usr/bin/env bash
# The steps of action.yml. Everything comes in by variables: no text of an event is ever part of a script.
set -euo pipefail

work=${RUNNER_TEMP:?}/dsv4
out=$work/out
dsv4=$work/venv/bin/dsv4
branch=dsv4/result # in the runner's clone only; nothing is pushed
# What agents take orders from; on pull requests it is the base's, wherever it lies.
configuration=(':(icase,glob)**/AGENTS.md' ':(icase,glob)**/CLAUDE.md' ':(icase,glob)**/.mcp.json'
    ':(icase,glob)**/.dsv4/**' ':(icase,glob)**/.dsv4')

fail() {
    printf '::error title=dsv4::%s\n' "$*"
    exit 1
}

quiet_git() { # hooks and monitors of the checkout don't run
    git -c core.hooksPath=/dev/null -c core.fsmonitor=false "$@"
}

actor() {
    local name permission
    for name in "${GITHUB_ACTOR:?}" "${GITHUB_TRIGGERING_ACTOR:-$GITHUB_ACTOR}"; do
        [[ $name =~ ^[A-Za-z0-9_.-]+(\[bot\])?$ ]] || fail "the actor's name is not understood"
        permission=$(gh api "repos/${GITHUB_REPOSITORY:?}/collaborators/$name/permission" --jq .permission) ||
            fail "the permission of $name can't be looked up; it needs the job's token"
        case $permission in
        admin | write) ;;
        *) fail "$name has no write access to this repository; someone who has must start this" ;;
        esac
    done
}

install() {
    if [[ $(id -u) == 0 && ${DSV4_ALLOW_ROOT:-false} != true ]]; then
        fail "this job runs as root; use a runner with a user of its own, or set allow-root"
    fi
    if [[ ${DSV4_SANDBOX:?} != off ]] && ! command -v bwrap >/dev/null; then
        sudo -n apt-get install -y -q bubblewrap || fail "bubblewrap can't be installed; see docs/ci.md"
    fi
    local limit=/proc/sys/kernel/apparmor_restrict_unprivileged_userns # Ubuntu from 24.04 on
    if [[ $DSV4_SANDBOX != off && -e $limit && $(<"$limit") == 1 ]]; then
        sudo -n sysctl -q -w kernel.apparmor_restrict_unprivileged_userns=0 || true
    fi
    [[ ${DSV4_EXTRAS:-} =~ ^[a-z,]*$ ]] || fail "extras is not understood"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "python3 is older than 3.11"
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install -q --disable-pip-version-check \
        --constraint "${GITHUB_ACTION_PATH:?}/constraints.txt" "$GITHUB_ACTION_PATH${DSV4_EXTRAS:+[$DSV4_EXTRAS]}"
}

prepare() {
    local trusted=${DSV4_TRUSTED:?} plan=${DSV4_PLAN:?} base
    [[ $plan != /* && /$plan/ != */../* ]] || fail "plan must be a path inside the repository"
    [[ $trusted =~ ^[0-9a-f]{40,64}$ ]] || fail "the trusted commit is not understood"
    quiet_git cat-file -e "$trusted^{commit}" 2>/dev/null ||
        fail "commit $trusted is not in this clone; check out with fetch-depth: 0"
    mkdir -p "$out" "$work/trusted"
    GIT_INDEX_FILE=$work/trusted.index quiet_git read-tree "$trusted"
    GIT_INDEX_FILE=$work/trusted.index quiet_git checkout-index -q -a -f --prefix="$work/trusted/"
    [[ -f $work/trusted/$plan ]] || fail "there is no plan $plan in the trusted commit $trusted"
    base=$(restored "$trusted")
    printf '%s\n' "$base" >"$work/base"
    printf 'folder=%s\n' "$out" >>"${GITHUB_OUTPUT:?}"
}

# A commit that is what is checked out, but with the agents' configuration of the trusted commit.
restored() {
    local head tree
    head=$(quiet_git rev-parse HEAD)
    export GIT_INDEX_FILE=$work/base.index
    quiet_git read-tree HEAD
    quiet_git rm -r -q --cached --ignore-unmatch -- "${configuration[@]}"
    GIT_INDEX_FILE=$work/trusted.index quiet_git ls-files -s -z -- "${configuration[@]}" |
        quiet_git update-index -z --index-info
    tree=$(quiet_git write-tree)
    if [[ $tree == $(quiet_git rev-parse "HEAD^{tree}") ]]; then
        printf '%s\n' "$head"
    else
        quiet_git -c user.name=dsv4 -c user.email=dsv4@localhost commit-tree "$tree" -p "$head" \
            -m "Configuration of $1"
    fi
}

batch() {
    local arguments=(batch run "$work/trusted/${DSV4_PLAN:?}" --base "$(<"$work/base")"
        --deliver commits --branch "$branch" --sandbox "${DSV4_SANDBOX:?}"
        --allow-failures "${DSV4_ALLOW_FAILURES:?}" --verbose
        --report "markdown=$out/summary.md" --report "junit=$out/junit.xml"
        --report "sarif=$out/result.sarif")
    [[ -z ${DSV4_JOBS:-} ]] || arguments+=(--jobs "$DSV4_JOBS")
    [[ -z ${GITHUB_STEP_SUMMARY:-} ]] || arguments+=(--report "markdown=$GITHUB_STEP_SUMMARY")
    export DSV4_STATE_DIR=$work/state DSV4_CONFIG_DIR=$work/configuration
    if [[ -n ${DSV4_API_KEY:-} && -z ${DSV4_BASE_URL:-} ]]; then
        export DEEPSEEK_API_KEY=$DSV4_API_KEY
        unset DSV4_API_KEY
    fi
    local name
    for name in DSV4_MODEL DSV4_BASE_URL DSV4_API_KEY; do
        [[ -n ${!name:-} ]] || unset "$name"
    done
    # What the model and commands say is no workflow command, and can't reach later steps.
    printf '::stop-commands::%s\n' "$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')"
    unset GITHUB_ENV GITHUB_PATH GITHUB_OUTPUT GITHUB_STATE GITHUB_STEP_SUMMARY GH_TOKEN GITHUB_TOKEN
    exec "$dsv4" "${arguments[@]}"
}

collect() {
    local base run changed=false
    base=$(<"$work/base")
    for run in "$work"/state/batches/*/; do
        [[ ! -d ${run}patches ]] || cp -r "${run}patches" "$out/"
    done
    if quiet_git rev-parse -q --verify "refs/heads/$branch" >/dev/null; then
        quiet_git format-patch -q --binary --full-index --no-signature --stdout "$base..$branch" \
            >"$out/changes.mbox"
        changed=true
    fi
    printf 'changed=%s\n' "$changed" >>"${GITHUB_OUTPUT:?}"
}

case ${1:-} in
actor | install | prepare | batch | collect) "$1" ;;
*) fail "usage: dsv4-batch.sh actor|install|prepare|batch|collect" ;;
esac
