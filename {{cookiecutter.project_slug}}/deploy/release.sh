#!/usr/bin/env bash
# For a machine that has git and Docker with Compose, but no Python. What an environment runs is its release.env and
# secret.env, in deploy/<environment>/, and deploy/compose.yaml. `tabloop release` changes release.env.
#
#   release.sh reconcile ENVIRONMENT   one turn: pull, run what is declared; what fails is tried again or falls back
#   release.sh smoke IMAGE             start the image as in production, ask it for a prediction
#
# A turn exits with 0: the environment runs what is declared; 75: something failed that may work another time; 1: the
# declared image did not become healthy, or failed on live traffic, so the last good release runs until another commit.
set -euo pipefail
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE IMAGE # of a hook or an editor, for another repository; and what git declares
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PROJECT={{ cookiecutter.project_slug }}
read -ra COMPOSE <<<"${COMPOSE:-docker compose}"
HEALTHY_SECONDS=${HEALTHY_SECONDS:-60} # for a container to become healthy
WATCH_SECONDS=${WATCH_SECONDS:-120}    # for which a new release's live metrics are watched; 0: not at all
PAUSE_SECONDS=${PAUSE_SECONDS:-30}     # before the second attempt; each further one is twice as long, up to 15 minutes
KEEP_IMAGES=${KEEP_IMAGES:-168h}       # older images of this project that no container uses are removed
# Asked from inside, where Python and the example row are.
ASK='import json, urllib.request as r
row = json.load(open("/app/models/champion/model.json"))["example"]
headers = {"content-type": "application/json"}
print(r.urlopen(r.Request("http://127.0.0.1:8000/predict", json.dumps(row).encode(), headers)).read().decode())'
STATE_OF='{% raw %}{{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{else}}unchecked{{end}}{% endraw %}'

say() { echo "release: $*"; }
fail() { say "$@" >&2 && exit 1; }

reason() { # why the last command failed: git's own line, else the last one
  grep --max-count 1 --extended-regexp '^(fatal|error): ' "$state/stderr" || grep . "$state/stderr" | tail --lines 1 ||
    echo "for a reason that was not given"
}

image_of() { sed -n 's/^ *IMAGE: //p' "$1" | head --lines 1; }

compose() { "${COMPOSE[@]}" --progress quiet --project-name "$PROJECT-$environment" "$@" 2>"$state/stderr"; }

# What is declared, in one file: Compose reads the variables, resolves the names, and keeps the file's paths.
resolve() {
  compose --project-directory "deploy/$environment" --env-file "deploy/$environment/release.env" \
    --file deploy/compose.yaml config >"$state/wanted.new" && mv "$state/wanted.new" "$state/wanted.yaml" && return
  "${COMPOSE[@]}" version >/dev/null 2>&1 ||
    echo "'${COMPOSE[*]} version' fails: is Docker Compose installed?" >"$state/stderr"
  return 1
}

healthy() { # 0: all containers of the environment are; 1: they are not, for now; 75: Docker does not answer
  local containers states of="label=com.docker.compose.project=$PROJECT-$environment"
  containers=$(docker ps --all --quiet --filter "$of" 2>"$state/stderr") || return 75
  # shellcheck disable=SC2086 # one word for each container
  states=$(docker inspect --format "$STATE_OF" $containers 2>"$state/stderr") || return 75
  ! grep --quiet --invert-match --extended-regexp '^running (healthy|unchecked)$' <<<"$states"
}

start() { # FILE [OPTION]: 0: all containers are healthy; 1: they were started and are not; 75: they were not started
  compose --file "$1" up --detach --remove-orphans "${@:2}" >/dev/null || return 75
  if healthy; then return; fi
  compose --file "$1" up --detach --wait --wait-timeout "$HEALTHY_SECONDS" >/dev/null || true
  healthy
}

post() { # URL JSON; the token is not among the arguments, which every user of the machine can read
  curl --silent --show-error --fail --max-time 10 --header @- --header 'Accept: application/vnd.github+json' \
    --data "$2" "$1" <<<"Authorization: Bearer $GITHUB_TOKEN" 2>"$state/stderr"
}

report() { # STATE TEXT: to GitHub's deployments
  [ -n "${GITHUB_TOKEN:-}" ] || return 0
  local address text url
  text=$(tr -d '"\\[:cntrl:]' <<<"$2" | cut --characters 1-140)
  address=$(git config remote.origin.url | sed -E 's#(\.git)?/?$##; s#^.*[:/]([^/:]+/[^/]+)$#\1#') || true
  url=${GITHUB_API_URL:-https://api.github.com}/repos/${GITHUB_REPOSITORY:-$address}/deployments
  [ -s "$state/deployment" ] || post "$url" "{\"ref\": \"$(git rev-parse HEAD)\", \"environment\": \"$environment\",
    \"auto_merge\": false, \"required_contexts\": []}" |
    sed -n 's/.*"statuses_url": *"\([^"]*\)".*/\1/p' >"$state/deployment" || true
  if [ -s "$state/deployment" ]; then
    post "$(cat "$state/deployment")" "{\"state\": \"$1\", \"description\": \"$text\"}" >/dev/null && return
  fi
  say "GitHub was not told: $(reason)" >&2
}

later() { # REASON: end this turn; another attempt follows after a pause. The reason is said and reported once.
  local attempts=0 said='' pause
  if [ -f "$state/later" ]; then { read -r _ attempts _ && read -r said; } <"$state/later" || true; fi
  pause=$((PAUSE_SECONDS << (attempts < 5 ? attempts : 5)))
  pause=$((pause < 900 ? pause : 900))
  printf '%s %s %s\n%s\n' "$mark" $((attempts + 1)) $(($(date +%s) + pause)) "$1" >"$state/later"
  if [ "${said//[0-9]/}" = "${1//[0-9]/}" ]; then
    say "$environment: attempt $((attempts + 1)) failed like the one before; the next one in $pause s" >&2
  else
    say "$environment: $1; the next attempt in $pause s" >&2
    report error "$1"
  fi
  exit 75
}

in_pause() { # whether it is too early for another attempt; a new declaration has no pause
  local before='' next=''
  if [ -f "$state/later" ]; then read -r before _ next <"$state/later" || true; fi
  if [ "$before" != "$mark" ]; then rm -f "$state/later" "$state/deployment"; fi
  local seconds=$((${next:-0} - $(date +%s)))
  [ "$before" = "$mark" ] && [ "$seconds" -gt 0 ] && say "$environment: the next attempt in $seconds s"
}

known_good() { # FILE: whether this release was healthy here before
  cmp --silent "$1" "$state/good.yaml" || grep --quiet --line-regexp "$(sha256sum <"$1")" "$state/known" 2>/dev/null
}

run() { # FILE: as start; a good release that is still not healthy at the second attempt gets new containers
  start "$1" && return
  local verdict=$?
  if known_good "$1" && [ -f "$state/later" ]; then start "$1" --force-recreate; else return $verdict; fi
}

watch() { # IMAGE: 0: no limit is exceeded, or that can't be told; 1: one is, and $state/breach says which; 75: as healthy
  if [ "$WATCH_SECONDS" = 0 ] || [ ! -f "$state/good.yaml" ] || known_good "$state/wanted.yaml"; then return; fi
  local said verdict=0
  say "$environment: $1 is healthy; its live metrics are watched for $WATCH_SECONDS s"
  # Without the lock: a turn that is killed leaves this command.
  compose --file "$state/wanted.yaml" exec -T service python -m tabloop.live "$WATCH_SECONDS" \
    </dev/null >"$state/watched" 9>&- || verdict=$?
  said=$(cat "$state/watched")
  if [ $verdict -eq 3 ]; then echo "$said" >"$state/breach" && return 1; fi
  [ $verdict -eq 0 ] || said="the live metrics can't be read: $(reason)"
  say "$environment: $said"
  healthy && return
  verdict=$?
  echo "it was healthy, and is not any more" >"$state/breach"
  return $verdict
}

now_runs() { # IMAGE: what is declared is healthy
  rm -f "$state/bad.yaml"
  if cmp --silent "$state/wanted.yaml" "$state/good.yaml" && [ ! -f "$state/later" ]; then
    say "$environment runs $1"
    return
  fi
  sha256sum <"$state/wanted.yaml" >>"$state/known"
  mv "$state/wanted.yaml" "$state/good.yaml"
  say "$environment now runs $1"
  report success "$1 is healthy"
  rm -f "$state/later" "$state/deployment"
  docker image prune --all --force --filter "label=org.opencontainers.image.title=$PROJECT" \
    --filter "until=$KEEP_IMAGES" >/dev/null 2>&1 || true
}

try() { # IMAGE: run what is declared, else the last good release, if there is one
  local text verdict tried=$state/wanted.yaml
  rm -f "$state/breach"
  if run "$tried" && watch "$1"; then return; else verdict=$?; fi
  if [ $verdict -eq 75 ]; then text=$(reason); else text="$1 did not become healthy"; fi
  if [ $verdict -eq 1 ] && [ -f "$state/breach" ]; then text="$1: $(cat "$state/breach")"; fi
  if [ $verdict -eq 1 ] && ! known_good "$tried"; then
    [ -f "$state/breach" ] || compose --file "$tried" logs --no-log-prefix --tail 5 >&2 || true
    mv "$tried" "$state/bad.yaml"
    tried=$state/bad.yaml
  fi
  if [ ! -f "$state/good.yaml" ]; then
    text+="; there is nothing to fall back to"
  elif ! cmp --silent "$tried" "$state/good.yaml"; then
    if start "$state/good.yaml"; then
      text+="; $environment runs $(image_of "$state/good.yaml") again"
    else
      text+="; nor does $(image_of "$state/good.yaml") run: $(reason)"
    fi
  fi
  if [ "$tried" = "$state/wanted.yaml" ]; then later "$text"; fi
  report failure "$text"
  rm -f "$state/later" "$state/deployment"
  fail "$text"
}

keep_good() { # IMAGE: it is bad and not tried again, but if there is no other it may have been slow, and be healthy now
  local good=$state/good.yaml
  if [ ! -f "$good" ] && run "$state/wanted.yaml"; then return; fi
  [ ! -f "$good" ] || run "$good" || later "$1 failed here, and $(image_of "$good") is not healthy now"
  rm -f "$state/later"
  fail "$1 failed here; waiting for another commit"
}

reconcile() {
  local image not_pulled='' not_resolved=''
  environment=$1
  [[ $WATCH_SECONDS =~ ^[0-9]+$ ]] || fail "WATCH_SECONDS=$WATCH_SECONDS: give a number of seconds"
  [ -f "deploy/$1/release.env" ] || fail "deploy/$1/release.env is missing; there are: $(echo deploy/*/release.env)"
  state=$(git rev-parse --git-dir)/reconcile/$1 # what was seen on this machine
  mkdir -p "$state" && chmod 700 "$state"       # it holds secrets
  exec 9>"$state/lock"
  flock --nonblock 9 || { say "another turn of $1 is at work" && exit 0; }
  if git rev-parse --verify '@{upstream}' >/dev/null 2>&1; then # environments may share a clone
    flock --close "$state/../pull" timeout 120 git pull --quiet --ff-only 2>"$state/stderr" 9>&- || not_pulled=$(reason)
  fi
  if resolve; then mark=$(sha256sum <"$state/wanted.yaml"); else not_resolved=$(reason) mark=unresolved; fi
  mark=${mark%% *}
  if in_pause; then exit 75; fi
  if [ -n "$not_resolved" ]; then later "$not_resolved"; fi
  image=$(image_of "$state/wanted.yaml")
  if cmp --silent "$state/wanted.yaml" "$state/bad.yaml"; then keep_good "$image"; else try "$image"; fi
  now_runs "$image"
  if [ -n "$not_pulled" ]; then say "$1: git pull: $not_pulled" >&2 && exit 75; fi
}

smoke() {
  local name=$PROJECT-smoke-$$ now=''
  docker image inspect "$1" >/dev/null 2>&1 || docker pull --quiet "$1" >/dev/null 2>&1 ||
    fail "there is no image $1: \`make image\` builds it"
  trap 'docker rm --force --volumes '"$name"' >/dev/null 2>&1' EXIT
  docker run --detach --name "$name" --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges:true \
    "$1" >/dev/null
  for _ in $(seq "$HEALTHY_SECONDS"); do
    now=$(docker inspect --format "$STATE_OF" "$name")
    if [ "$now" = "running starting" ]; then sleep 1; else break; fi
  done
  [ "$now" = "running healthy" ] || { docker logs "$name" >&2 && fail "$1 did not become healthy"; }
  docker exec "$name" python -c "$ASK"
}

case ${1:-} in
reconcile | smoke) [ -n "${2:-}" ] || fail "$1 needs a name: see the first lines of deploy/release.sh" && "$1" "$2" ;;
*) sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 2 ;;
esac
