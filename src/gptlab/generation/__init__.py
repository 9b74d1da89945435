"""From a prompt to text: `sampling` picks one token, `decoding` loops, `stream` turns tokens into text as they come."""
