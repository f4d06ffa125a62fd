"""Stand between a resolver and a server, and write down each query.

python3 capture.py LISTEN-IP SERVER-IP SERVER-PORT FILE

It listens on port 53 of an address, over UDP and TCP, passes queries on and
answers back, and appends a line to FILE for each query that is not there yet:
the transport, and the message in hex. Messages that differ in the ID only
count as one.
"""

import socket
import struct
import sys
import threading

listen, server, path = (sys.argv[1], 53), (sys.argv[2], int(sys.argv[3])), sys.argv[4]
lock, seen = threading.Lock(), set()


def note(transport, message):
    with lock:
        if (transport, message[2:]) not in seen:
            seen.add((transport, message[2:]))
            with open(path, "a") as f:
                f.write(f"{transport} {message.hex()}\n")


def pass_on(message, client, address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(5)
        s.sendto(message, server)
        client.sendto(s.recv(65535), address)


def udp(sock):
    while True:
        message, address = sock.recvfrom(65535)
        note("udp", message)
        threading.Thread(target=pass_on, args=(message, sock, address), daemon=True).start()


def frames(sock):
    data = b""
    while chunk := sock.recv(65535):
        data += chunk
        while len(data) >= 2 and len(data) >= 2 + struct.unpack(">H", data[:2])[0]:
            end = 2 + struct.unpack(">H", data[:2])[0]
            yield data[2:end]
            data = data[end:]


def back(sock, client):
    try:
        while chunk := sock.recv(65535):
            client.sendall(chunk)
    except OSError:
        pass


def tcp(client):
    with client, socket.create_connection(server) as s:
        threading.Thread(target=back, args=(s, client), daemon=True).start()
        for message in frames(client):
            note("tcp", message)
            s.sendall(struct.pack(">H", len(message)) + message)


u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.bind(listen)
t = socket.create_server(listen)
threading.Thread(target=udp, args=(u,), daemon=True).start()
while True:
    threading.Thread(target=tcp, args=(t.accept()[0],), daemon=True).start()
