#!/usr/bin/env bash
# For a machine that has git and Docker but no Python. What an environment runs is deploy/<environment>/release.env;
# `tabloop release` changes it.
#
#   release.sh reconcile ENVIRONMENT   pull, run that release; if it does not become healthy, run the last healthy one
#   release.sh smoke IMAGE             start the image as in production, ask it for a prediction
set -euo pipefail
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE # of a hook or an editor, for another repository
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

value() { sed -n "s/^$2=//p" "$1" | tail -n 1 | tr -d '\r'; }

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
reconcile | smoke) [ -n "${2:-}" ] || fail "$1 needs a name: see the first lines of deploy/release.sh" && "$1" "$2" ;;
*) sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 2 ;;
esac
