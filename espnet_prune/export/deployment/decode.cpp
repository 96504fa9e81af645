// Decode WAV files with onnxruntime: ./decode MODEL.onnx WAV...
//
// ORT is where a release of onnxruntime for C++ was unpacked:
//   g++ -std=c++17 -O2 decode.cpp -I$ORT/include -L$ORT/lib -lonnxruntime -o decode
// The tokens are in tokens.txt beside the model, one a line; the first is CTC's blank.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iostream>

using namespace std;

string bytes_of(const string& path) {
  ifstream file(path, ios::binary);
  if (!file) throw runtime_error("no such file");
  return {istreambuf_iterator<char>(file), {}};
}

// The samples, in [-1, 1], of a WAV file that must be mono, 16 bits, of this rate, and
// not longer than so many seconds.
vector<float> samples_of(const string& path, int rate, int longest) {
  string bytes = bytes_of(path);
  if (bytes.substr(0, 4) != "RIFF") throw runtime_error("is no WAV file");
  for (size_t at = 12; at + 8 <= bytes.size();) {
    string name = bytes.substr(at, 4);
    uint32_t length, hertz;
    memcpy(&length, &bytes[at + 4], 4);
    const char* chunk = &bytes[at += 8];
    length = min<size_t>(length, bytes.size() - at);
    if (name == "fmt " && length >= 16) {
      int16_t format[8];
      memcpy(format, chunk, 16), memcpy(&hertz, chunk + 4, 4);
      if (format[1] != 1 || format[7] != 16 || hertz != uint32_t(rate))
        throw runtime_error("must be mono, 16 bits, " + to_string(rate) + " Hz");
    } else if (name == "data") {
      if (int seconds = length / 2 / rate; seconds > longest)
        throw runtime_error("lasts " + to_string(seconds) + " s: cut it to " +
                            to_string(longest) + " at most");
      vector<int16_t> whole(length / 2);
      memcpy(whole.data(), chunk, whole.size() * 2);
      vector<float> samples(whole.begin(), whole.end());
      for (float& sample : samples) sample /= 32768;
      if (samples.size() < size_t(rate / 5))
        throw runtime_error("is shorter than a fifth of a second");
      return samples;
    }
    at += length + length % 2;
  }
  throw runtime_error("holds no samples");
}

void replace(string& text, const string& old, const string& with) {
  for (size_t at; (at = text.find(old)) != string::npos;)
    text.replace(at, old.size(), with);
}

int main(int argc, char** argv) {
  string at = argc > 2 ? argv[1] : "usage: decode MODEL.onnx WAV...";
  if (argc < 3) return cerr << at << endl, 2;
  try {
    Ort::Env env;
    Ort::Session session(env, argv[1], Ort::SessionOptions());
    Ort::AllocatorWithDefaultOptions own;
    auto about = session.GetModelMetadata();
    auto rate = about.LookupCustomMetadataMapAllocated("sampling_rate", own);
    auto longest = about.LookupCustomMetadataMapAllocated("longest_seconds", own);
    auto between = about.LookupCustomMetadataMapAllocated("between_tokens", own);
    if (!rate || !longest || !between) throw runtime_error("is no model of export_onnx");
    ifstream file(at.substr(0, at.find_last_of('/') + 1) + "tokens.txt");
    vector<string> tokens;
    for (string line; getline(file, line);) tokens.push_back(line);
    if (tokens.empty()) throw runtime_error("there is no tokens.txt beside it");
    for (int i = 2; i < argc; i++) {
      vector<float> samples =
          samples_of(at = argv[i], stoi(rate.get()), stoi(longest.get()));
      int64_t shape[] = {1, int64_t(samples.size())};
      auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
      auto speech = Ort::Value::CreateTensor<float>(memory, samples.data(),
                                                    samples.size(), shape, 2);
      const char *in = "speech", *out = "log_probs";
      auto outputs = session.Run(Ort::RunOptions(), &in, &speech, 1, &out, 1);
      auto sizes = outputs[0].GetTensorTypeAndShapeInfo().GetShape();
      const float* scores = outputs[0].GetTensorData<float>();  // (1, time, token)
      string text;
      for (int64_t time = 0, last = 0; time < sizes[1]; time++, scores += sizes[2]) {
        int64_t best = max_element(scores, scores + sizes[2]) - scores;
        if (best != 0 && best != last)  // CTC: repeats and blanks go
          text += (text.empty() ? "" : between.get()) + tokens.at(best);
        last = best;
      }
      replace(text, "▁", " "), replace(text, "<space>", " ");
      text.erase(0, text.find_first_not_of(' '));
      cout << argv[i] << ' ' << text << endl;
    }
  } catch (const exception& e) {
    return cerr << "error: " << at << ": " << e.what() << endl, 1;
  }
}
