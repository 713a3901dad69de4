"""What everything else rests on: parameters, places, files, errors, processes and the numeric contract."""
