"""Asks a web server on 127.0.0.1 for the same file again and again, and compares.

usage: exercise.py PORT PATH FILE REQUESTS THREADS

Each thread keeps its connection; every tenth request is made on a new one. Exits 1 at a wrong answer.
"""
import http.client
import sys
import threading

port, path, name, requests, threads = (
    int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
with open(name, "rb") as file:
    expected = file.read()
wrong = []


def ask():
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        for number in range(requests // threads):
            if number % 10 == 9:
                connection.close()
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200 or body != expected:
                wrong.append((answer.status, len(body)))
    except Exception as error:
        wrong.append(repr(error))
    connection.close()


workers = [threading.Thread(target=ask) for _ in range(threads)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
if wrong:
    print("wrong:", len(wrong), wrong[:5])
    sys.exit(1)
print(requests, "requests on", threads, "connections")
