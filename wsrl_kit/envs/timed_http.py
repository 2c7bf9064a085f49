"""HTTP requests that end by a deadline, whatever the server does.

The timeouts of the usual clients are for each packet, so that a server that trickles keeps them for ever. Here a socket
gets the time that is left of the whole, and h11, which does no input or output itself, reads the protocol.
"""

import select
import socket
import subprocess
import sys
import time
from ipaddress import ip_address

import h11

_LARGEST_HEADER = 1 << 16
_RESOLVE = "import socket, sys; print(*(found[4][0] for found in socket.getaddrinfo(sys.argv[1], None, type=1)))"


class Connection:
    """A connection to one server, opened when needed and kept alive between requests; for one thread at a time.

    Args:
        host: name or address.
        port: of the server.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._addresses: list[str] = []
        self._socket: socket.socket | None = None

    def close(self) -> None:
        """Hang up, and forget the address that the name had."""
        self._addresses = []
        self.hang_up()

    def post(self, path: str, content: bytes, deadline: float, largest: int) -> tuple[int, bytes]:
        """Send one POST request and return the status and body of the answer.

        A request that fails closes the connection, so that its late answer is never taken for the next one.

        Args:
            path: with the leading slash.
            content: the body, JSON; may be empty.
            deadline: seconds for everything: name, connection, request, headers, and body.
            largest: bytes that the answer's body may have.

        Raises:
            TimeoutError: the answer was not complete in time.
            OSError: the server can't be reached, hung up, answered with something else than HTTP, or with too much.
        """
        end = time.monotonic() + deadline
        if self._socket is not None and select.select([self._socket], [], [], 0)[0]:
            # The server has hung up, or said something that nobody asked for.
            self.hang_up()
        try:
            if self._socket is None:
                self._socket = self._connect(end)
            return self._exchange(self._socket, path, content, end, largest)
        except h11.ProtocolError as error:
            self.hang_up()
            raise OSError(f"what it answers is no HTTP: {error}") from error
        except BaseException:
            # An interrupt too: no half-read answer may be left for the next request.
            self.hang_up()
            raise

    def hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self, end: float) -> socket.socket:
        self._addresses = self._addresses or _resolve(self._host, end)
        for number, address in enumerate(self._addresses, 1):
            try:
                connected = socket.create_connection((address, self._port), _left(end))
            except OSError:
                if number == len(self._addresses):
                    raise
            else:
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return connected
        raise OSError(f"{self._host} has no address")

    def _exchange(self, link: socket.socket, path: str, content: bytes, end: float, largest: int) -> tuple[int, bytes]:
        protocol = h11.Connection(h11.CLIENT, max_incomplete_event_size=_LARGEST_HEADER)
        headers = [
            ("Host", f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"),
            ("Content-Length", str(len(content))),
            *([("Content-Type", "application/json")] if content else []),
        ]
        request = h11.Request(method="POST", target=path, headers=headers)
        events = (request, h11.Data(data=content), h11.EndOfMessage())
        link.settimeout(_left(end))
        # For all of it, unlike the timeout of a receive.
        link.sendall(b"".join(protocol.send(event) or b"" for event in events))
        status, body = 0, bytearray()
        while True:
            left = _left(end)
            event = protocol.next_event()
            if event is h11.NEED_DATA:
                link.settimeout(left)
                received = link.recv(1 << 16)
                if not received and not status:
                    raise ConnectionError("it hung up before it answered")
                protocol.receive_data(received)
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > largest:
                    raise OSError(f"it answers with more than {largest} bytes")
            elif isinstance(event, h11.EndOfMessage):
                break
        if protocol.their_state is not h11.DONE or protocol.trailing_data != (b"", False):
            self.hang_up()
        return status, bytes(body)


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _resolve(host: str, end: float) -> list[str]:
    """The addresses of a name, looked up by a process, since nothing else that asks the system can be ended in time."""
    if host == "localhost":
        return ["127.0.0.1", "::1"]
    try:
        return [str(ip_address(host))]
    except ValueError:
        pass
    try:
        command = [sys.executable, "-I", "-S", "-c", _RESOLVE, host]
        found = subprocess.run(command, capture_output=True, text=True, timeout=_left(end))
    except subprocess.TimeoutExpired as error:
        raise TimeoutError from error
    if found.returncode:
        said = found.stderr.strip().rpartition("\n")[2]
        raise OSError(f"there is no address of {host} ({said})")
    return list(dict.fromkeys(found.stdout.split()))
