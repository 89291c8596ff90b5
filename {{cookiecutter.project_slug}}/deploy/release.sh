#!/usr/bin/env bash
# What an environment runs is deploy/<environment>/release.env; this changes it, by commits, and makes it so.
#
#   release.sh set ENVIRONMENT NAME=VALUE...   write these, commit
#   release.sh rollback ENVIRONMENT            revert the commit that last changed it
#   release.sh reconcile ENVIRONMENT           pull, run what it says; what does not become healthy is taken back
#   release.sh smoke IMAGE                     start the image as in production, ask it for a prediction
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PROJECT={{ cookiecutter.project_slug }}
read -ra COMPOSE <<<"${COMPOSE:-docker compose}"
HEALTHY_SECONDS=${HEALTHY_SECONDS:-60}
# Asked from inside, where Python and the example row are.
ASK='import json, urllib.request as r
row = json.load(open("/app/models/champion/model.json"))["example"]
headers = {"content-type": "application/json"}
print(r.urlopen(r.Request("http://127.0.0.1:8000/predict", json.dumps(row).encode(), headers)).read().decode())'

fail() {
  echo "release: $*" >&2
  exit 1
}

file_of() {
  local file=deploy/$1/release.env
  [ -f "$file" ] || fail "$file is missing; there are: $(echo deploy/*/release.env)"
  echo "$file"
}

value() { sed -n "s/^$2=//p" "$1"; }

set_release() {
  local environment=$1 file
  file=$(file_of "$environment")
  shift
  for pair in "$@"; do
    grep -q "^${pair%%=*}=" "$file" || fail "$file has no ${pair%%=*}"
    sed -i.old "s|^${pair%%=*}=.*|$pair|" "$file" && rm "$file.old"
  done
  if git diff --quiet HEAD -- "$file"; then
    echo "release: $environment is at $(value "$file" MODEL_VERSION) already"
    return
  fi
  git commit --quiet --message "Deploy $(value "$file" MODEL_VERSION) to $environment" -- "$file"
  git --no-pager log -1 --format='release: %h %s'
}

rollback() {
  local file last
  file=$(file_of "$1")
  last=$(git log -1 --format=%H -- "$file")
  if ! git cat-file -e "$last^:$file" 2>/dev/null; then
    fail "$1 was never changed: there is nothing to go back to"
  fi
  git diff --quiet HEAD || fail "there are uncommitted changes: commit or stash them first"
  # Of that commit only this file, whatever else it held.
  git checkout --quiet "$last^" -- "$file"
  git commit --quiet --message "Roll back $1 to $(value "$file" MODEL_VERSION)" \
    --message "Reverts $file to what it was before $last."
  git --no-pager log -1 --format='release: %h %s'
}

up() { # ENVIRONMENT FILE
  "${COMPOSE[@]}" --project-name "$PROJECT-$1" --file deploy/compose.yaml --env-file "$2" up --detach >&2
}

container() { docker ps --all --quiet --filter "label=com.docker.compose.project=$PROJECT-$1" | head -n 1; }

healthy() { # CONTAINER: whether it is, waiting for it
  local status
  for _ in $(seq "$HEALTHY_SECONDS"); do
    status=$(docker inspect --format '{% raw %}{{.State.Status}} {{.State.Health.Status}}{% endraw %}' "$1" 2>/dev/null) || return 1
    case $status in
    "running healthy") return 0 ;;
    "running starting") sleep 1 ;;
    *) return 1 ;;
    esac
  done
  return 1
}

reconcile() {
  local environment=$1 file wanted good bad
  file=$(file_of "$environment")
  if git rev-parse --quiet --verify '@{upstream}' >/dev/null; then git pull --quiet --ff-only; fi
  mkdir -p ".git/reconcile/$environment" # what was seen to work, and not to: this machine's own business
  good=.git/reconcile/$environment/good.env bad=.git/reconcile/$environment/bad.env
  wanted=$(value "$file" IMAGE)
  if cmp -s "$file" "$bad"; then fail "$wanted did not become healthy here; waiting for another commit"; fi
  if cmp -s "$file" "$good" && healthy "$(container "$environment")"; then
    echo "release: $environment runs $wanted"
    return
  fi
  if up "$environment" "$file" && healthy "$(container "$environment")"; then
    cp "$file" "$good"
    rm -f "$bad"
    echo "release: $environment now runs $wanted"
    return
  fi
  docker logs --tail 5 "$(container "$environment")" >&2 || true
  cp "$file" "$bad"
  [ -f "$good" ] || fail "$wanted did not become healthy, and there is nothing to fall back to"
  if ! { up "$environment" "$good" && healthy "$(container "$environment")"; }; then
    fail "neither $wanted nor $(value "$good" IMAGE) became healthy"
  fi
  fail "$wanted did not become healthy; $environment runs $(value "$good" IMAGE) again"
}

smoke() {
  local name=$PROJECT-smoke-$$
  trap 'docker rm --force --volumes '"$name"' >/dev/null 2>&1' EXIT
  docker run --detach --name "$name" --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges:true "$1" >/dev/null
  if ! healthy "$name"; then
    docker logs "$name" >&2
    fail "$1 did not become healthy"
  fi
  docker exec "$name" python -c "$ASK"
}

case ${1:-} in
set) set_release "${@:2}" ;;
rollback | reconcile | smoke) [ -n "${2:-}" ] || fail "$1 what?" && "$1" "$2" ;;
*) sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 2 ;;
esac
