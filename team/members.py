"""Manage who may use a team's MLflow: `team/members.py add NAME`, `reader NAME`, `password NAME`, `remove NAME`.

It signs in as MLFLOW_TRACKING_USERNAME, with MLFLOW_TRACKING_PASSWORD, at MLFLOW_TRACKING_URI. It asks for the
member's password in a terminal, and otherwise reads it from standard input.
"""

import argparse
import getpass
import os
import sys
import warnings

WRITES = ("experiment", "registered_model")  # what the role `members` may change
ROLE = "members"


def role(client):
    """Return the id of the role that may write; make it if it is missing."""
    for known in client.list_roles("default"):
        if known.name == ROLE:
            return known.id
    made = client.create_role("default", ROLE)
    for kind in WRITES:
        client.add_role_permission(made.id, kind, "*", "EDIT")
    return made.id


def password(name):
    """Ask for a member's password."""
    if sys.stdin.isatty():
        return getpass.getpass(f"Password of {name}: ")
    return sys.stdin.readline().rstrip("\n")


def main():
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("action", choices=["add", "reader", "password", "remove"])
    parser.add_argument("name")
    options = parser.parse_args()
    missing = [
        f"MLFLOW_TRACKING_{key}" for key in ("URI", "USERNAME", "PASSWORD") if not os.environ.get(f"MLFLOW_TRACKING_{key}")
    ]
    if missing:
        parser.error(f"{', '.join(missing)}: not set; sign in as admin")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # MLflow's own seven take four minutes
    warnings.simplefilter("ignore")  # MLflow's own imports warn
    from mlflow.exceptions import MlflowException
    from mlflow.server.auth.client import AuthServiceClient

    client = AuthServiceClient(os.environ["MLFLOW_TRACKING_URI"])
    try:
        if options.action == "remove":
            client.delete_user(options.name)
        elif options.action == "password":
            client.update_user_password(options.name, password(options.name))
        else:
            client.create_user(options.name, password(options.name))
            if options.action == "add":
                client.assign_role(options.name, role(client))
    except MlflowException as problem:
        sys.exit(f"team/members.py: error: {problem.message.splitlines()[0]}")


if __name__ == "__main__":
    main()
