#!/bin/sh
# Start a team's MLflow: sign-in, runs in PostgreSQL, artifacts in a folder that only this server reads and writes.
# It takes the options of `mlflow server` besides: team/mlflow.sh --port 5001
set -eu
for name in PGHOST PGPASSWORD MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY MLFLOW_SERVER_ALLOWED_HOSTS; do
  eval "value=\${$name:-}"
  # shellcheck disable=SC2154 # set by eval
  [ -n "$value" ] || { echo "team/mlflow.sh: error: $name is not set; docs/team.md says what for" >&2; exit 2; }
done
export PGUSER="${PGUSER:-mlflow}" MLFLOW_AUTH_CONFIG_PATH="${0%/*}/auth.ini"
export MLFLOW_DISABLE_TELEMETRY=true
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false # of MLflow's features for language models
exec mlflow server --app-name basic-auth --workers 2 \
  --backend-store-uri postgresql+psycopg2:///mlflow --artifacts-destination ./mlartifacts "$@"
